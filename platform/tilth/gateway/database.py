"""The gateway's own connections to PostgreSQL, as the app's role under row-level security; no Django in between."""

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from tilth.core.rls import MIGHTY

CONNECT_S = 5
STATEMENT_MS = 10_000
TENANT = "SELECT set_config('tilth.tenant', %s, true)"

Row = tuple[Any, ...]
Statement = tuple[str, Mapping[str, Any] | Sequence[Any]]


class MightyRole(RuntimeError):
    """The role of DATABASE_URL would see every tenant; the gateway does not start."""


def options(*, synchronous_commit: bool = True) -> dict[str, Any]:
    """How the gateway connects."""
    commit = "on" if synchronous_commit else "off"
    flags = f"-c synchronous_commit={commit} -c statement_timeout={STATEMENT_MS} -c plan_cache_mode=force_generic_plan"
    return {"connect_timeout": CONNECT_S, "autocommit": True, "options": flags, "application_name": "tilth gateway"}


async def refuse_mighty(connection: AsyncConnection[Any]) -> None:
    """Raises MightyRole for a role that row-level security does not bind."""
    cursor = await connection.execute(MIGHTY)
    unbound, owns = await cursor.fetchone() or (False, False)
    if unbound or owns:
        raise MightyRole("the role of DATABASE_URL is a superuser, has BYPASSRLS or owns tables; give it a plain role")


async def connect(url: str, *, synchronous_commit: bool) -> AsyncConnection[Row]:
    """A connection of one's own."""
    made = await AsyncConnection.connect(url, **options(synchronous_commit=synchronous_commit))
    await refuse_mighty(made)
    return made


def pool(url: str) -> AsyncConnectionPool[AsyncConnection[Row]]:
    """A small pool for reads; not opened yet."""
    return AsyncConnectionPool(
        url, kwargs=options(), min_size=1, max_size=4, open=False, configure=refuse_mighty, timeout=3, name="gateway",
        check=AsyncConnectionPool.check_connection,
    )  # fmt: skip


async def together(connection: AsyncConnection[Row], statements: Sequence[Statement]) -> list[list[Row]]:
    """Runs statements as one transaction in one round trip; returns after the commit, with each one's rows.

    Between two syncs of a pipeline lies one implicit transaction; leaving the pipeline waits for its sync. Rows that
    were fetched before that might still be lost with the server.
    """
    cursors = []
    async with connection.pipeline():
        for text, values in statements:
            cursors.append(await connection.execute(text, values))
    return [await cursor.fetchall() if cursor.description else [] for cursor in cursors]


def lost(error: BaseException) -> bool:
    """Whether an error means that the connection, not the statement, failed."""
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | OSError | TimeoutError)
