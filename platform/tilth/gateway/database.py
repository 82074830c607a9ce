"""The gateway's own connections to PostgreSQL, as the app's role under row-level security; no Django in between."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from tilth.core.rls import MIGHTY
from tilth.settings.env import KEEPALIVE

CONNECT_S = 5
STATEMENT_MS = 10_000
ANSWER_S = 12.0
"""A server that hangs for longer counts as lost."""
WAIT_S = 3.0
"""For a connection of the pool, and for its check."""
TENANT = "SELECT set_config('tilth.tenant', %s, true)"
LOST = (psycopg.OperationalError, psycopg.InterfaceError, OSError, TimeoutError)
"""Errors of the connection, not of a statement."""

Row = tuple[Any, ...]
Statement = tuple[str, Mapping[str, Any] | Sequence[Any]]


class MightyRole(RuntimeError):
    """The role of DATABASE_URL would see every tenant; the gateway does not start."""


def options(*, synchronous_commit: bool = True) -> dict[str, Any]:
    """How the gateway connects."""
    commit = "on" if synchronous_commit else "off"
    flags = f"-c synchronous_commit={commit} -c statement_timeout={STATEMENT_MS} -c plan_cache_mode=force_generic_plan"
    name = {"application_name": "tilth gateway"}
    return {"connect_timeout": CONNECT_S, "autocommit": True, "options": flags, **name, **KEEPALIVE}


async def refuse_mighty(connection: AsyncConnection[Any]) -> None:
    """Raises MightyRole for a role that row-level security does not bind."""
    cursor = await connection.execute(MIGHTY)
    unbound, owns = await cursor.fetchone() or (False, False)
    if unbound or owns:
        raise MightyRole("the role of DATABASE_URL is a superuser, has BYPASSRLS or owns tables; give it a plain role")


async def connect(url: str, *, synchronous_commit: bool) -> AsyncConnection[Row]:
    """A connection of one's own."""
    made = await AsyncConnection.connect(url, **options(synchronous_commit=synchronous_commit))
    async with answered(made):
        await refuse_mighty(made)
    return made


@asynccontextmanager
async def answered(connection: AsyncConnection[Any], within_s: float = ANSWER_S) -> AsyncIterator[None]:
    """Cuts the connection off when the server hangs: psycopg.OperationalError.

    A timeout would not do: cancelled, psycopg waits until the server has cancelled the statement, too.
    """
    timer = asyncio.get_running_loop().call_later(within_s, _cut_off, connection)
    try:
        yield
    finally:
        timer.cancel()


def _cut_off(connection: AsyncConnection[Any]) -> None:
    with suppress(psycopg.OperationalError, OSError), socket.socket(fileno=os.dup(connection.fileno())) as wire:
        wire.shutdown(socket.SHUT_RDWR)


def pool(url: str) -> AsyncConnectionPool[AsyncConnection[Row]]:
    """A small pool for reads; not opened yet."""
    return AsyncConnectionPool(
        url, kwargs=options(), min_size=1, max_size=4, open=False, configure=_configure, check=_check, timeout=WAIT_S,
        name="gateway",
    )  # fmt: skip


async def _configure(connection: AsyncConnection[Any]) -> None:
    async with answered(connection, WAIT_S):
        await refuse_mighty(connection)


async def _check(connection: AsyncConnection[Any]) -> None:
    async with answered(connection, WAIT_S):
        await AsyncConnectionPool.check_connection(connection)


async def together(connection: AsyncConnection[Row], statements: Sequence[Statement]) -> list[list[Row]]:
    """Runs statements as one transaction in one round trip; returns after the commit, with each one's rows.

    Between two syncs of a pipeline lies one implicit transaction; leaving the pipeline waits for its sync. Rows that
    were fetched before that might still be lost with the server.
    """
    cursors = []
    async with answered(connection), connection.pipeline():
        for text, values in statements:
            cursors.append(await connection.execute(text, values))
    return [await cursor.fetchall() if cursor.description else [] for cursor in cursors]


def lost(error: BaseException) -> bool:
    """Whether an error means that the connection, not the statement, failed."""
    return isinstance(error, LOST)
