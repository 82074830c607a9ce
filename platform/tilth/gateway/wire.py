"""One PostgreSQL connection driven through libpq's pipeline, for the batches on the hot way of every prediction.

psycopg's cursors cost more there than all the rest; this does what they do for statements prepared once, parameters
given as text, and nothing else.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any
from uuid import UUID

import psycopg
from psycopg import AsyncConnection, pq
from psycopg.errors import error_from_result

from tilth.gateway.database import ANSWER_S, connect

LOOK_S = 0.1
"""libuv stops polling a socket that is in error and tells no reader of it: so often it is looked at in any case."""
NAMED = re.compile(r"%\((\w+)\)s")
_numbers = count()

Values = dict[str, bytes | None]


@dataclass(frozen=True)
class Prepared:
    """A statement with named parameters, as it is prepared on each connection."""

    name: bytes
    text: bytes
    parameters: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> "Prepared":
        """From a text of usage.statements: ``%(tenant)s`` becomes ``$1`` wherever it stands."""
        parameters = tuple(dict.fromkeys(NAMED.findall(text)))
        numbered = NAMED.sub(lambda found: f"${parameters.index(found[1]) + 1}", text)
        return cls(f"tilth_{next(_numbers)}".encode(), numbered.encode(), parameters)


Call = tuple[Prepared, Values]


class Wire:
    """An open connection; one caller at a time."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._connection = connection
        self._pg = connection.pgconn
        self._socket = self._pg.socket  # libpq forgets it when the connection is lost
        self._readable = asyncio.Event()
        self._looking: asyncio.TimerHandle | None = None

    @classmethod
    async def open(cls, url: str, prepared: Sequence[Prepared], *, synchronous_commit: bool) -> "Wire":
        """Connects, refuses a mighty role, prepares; raises psycopg.OperationalError."""
        wire = cls(await connect(url, synchronous_commit=synchronous_commit))
        wire._pg.nonblocking = 1
        wire._pg.enter_pipeline_mode()
        asyncio.get_running_loop().add_reader(wire._socket, wire._readable.set)
        wire._look()
        try:
            for statement in prepared:
                wire._pg.send_prepare(statement.name, statement.text)
            await wire._synced(len(prepared))
        except BaseException:
            await wire.close()
            raise
        return wire

    async def together(self, calls: Sequence[Call]) -> list[pq.abc.PGresult]:
        """One transaction, one round trip, one result for each call.

        Between two syncs of a pipeline lies one implicit transaction, and the sync's own answer comes after its commit:
        results seen before it might still be lost with the server. Raises psycopg.Error if any call failed, and then
        nothing was done.
        """
        for statement, values in calls:
            self._pg.send_query_prepared(statement.name, [values[name] for name in statement.parameters])
        return await self._synced(len(calls))

    def broken(self) -> bool:
        """Whether the server has closed it while it was idle: its farewell and the end are read in two steps."""
        if not self._readable.is_set():
            return False
        self._readable.clear()
        try:
            self._pg.consume_input()
            self._pg.consume_input()
        except psycopg.OperationalError:
            return True
        return self._pg.status == pq.ConnStatus.BAD

    async def close(self) -> None:
        """Lets go of the connection."""
        if self._looking is not None:
            self._looking.cancel()
        asyncio.get_running_loop().remove_reader(self._socket)
        await self._connection.close()

    def _look(self) -> None:
        self._readable.set()
        self._looking = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    async def _synced(self, calls: int) -> list[pq.abc.PGresult]:
        self._pg.pipeline_sync()
        async with asyncio.timeout(ANSWER_S):
            await self._sent()
            results = [await self._result() for _ in range(calls)]
            await self._result(sync=True)
        for result in results:
            if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
                raise error_from_result(result)
        return results

    async def _sent(self) -> None:
        """What the socket did not take at once follows as the server reads on."""
        while self._pg.flush():
            await asyncio.sleep(0.001)
            self._pg.consume_input()

    async def _result(self, *, sync: bool = False) -> pq.abc.PGresult:
        """The next call's result; libpq puts a None behind each but the sync's."""
        while (result := await self._next()) is None:
            if self._pg.status == pq.ConnStatus.BAD:
                raise psycopg.OperationalError("the connection was lost")
        if not sync:
            await self._next()
        return result

    async def _next(self) -> pq.abc.PGresult | None:
        while self._pg.is_busy():
            self._readable.clear()
            await self._readable.wait()
            self._pg.consume_input()
        return self._pg.get_result()


TENANT = Prepared.of("SELECT set_config('tilth.tenant', %(tenant)s, true)")


def in_tenant(tenant: UUID) -> Call:
    """Opens the tenant's scope for the calls that follow in the transaction."""
    return TENANT, {"tenant": text(tenant)}


def text(value: object) -> bytes | None:
    """A parameter: None is NULL."""
    return None if value is None else str(value).encode()


def array(values: Sequence[object]) -> bytes:
    """An array of numbers, ids or times, whose text needs no quotes; None is NULL."""
    return ("{" + ",".join("NULL" if value is None else f'"{value}"' for value in values) + "}").encode()


def texts(values: Sequence[str]) -> bytes:
    """An array of any texts."""
    quoted = [value.replace("\\", "\\\\").replace('"', '\\"') for value in values]
    return ("{" + ",".join(f'"{value}"' for value in quoted) + "}").encode()
