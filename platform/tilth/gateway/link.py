"""One connection that is opened when needed and opened anew when it was lost."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from psycopg import pq

from tilth.gateway.database import lost
from tilth.gateway.wire import Call, Prepared, Wire

STARTED = Prepared.of("SELECT pg_postmaster_start_time()::text")


class Link:
    """A connection for one kind of batch. ``opened`` is called on a new one, with whether another server answers."""

    def __init__(
        self,
        url: str,
        prepared: Sequence[Prepared],
        *,
        synchronous_commit: bool,
        opened: Callable[[Wire, bool], Awaitable[None]] | None = None,
    ) -> None:
        self._url = url
        self._prepared = [STARTED, *prepared]
        self._synchronous_commit = synchronous_commit
        self._opened = opened
        self._alone = asyncio.Lock()
        self._wire: Wire | None = None
        self._server: bytes | None = None

    async def together(self, calls: Sequence[Call]) -> list[pq.abc.PGresult]:
        """One transaction, committed on return; on failure of the connection it is closed and the error raised."""
        async with self._alone:
            wire = await self._whole()
            try:
                return await wire.together(calls)
            except BaseException as error:
                if lost(error) or isinstance(error, asyncio.CancelledError):
                    await self.close()
                raise

    async def look(self) -> None:
        """Opens it anew if it was lost while nobody used it; raises if the database is away."""
        async with self._alone:
            await self._whole()

    async def close(self) -> None:
        """Lets go of the connection."""
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close()

    async def _whole(self) -> Wire:
        if self._wire is not None and self._wire.broken():
            await self.close()
        return self._wire or await self._open()

    async def _open(self) -> Wire:
        made = await Wire.open(self._url, self._prepared, synchronous_commit=self._synchronous_commit)
        try:
            (started,) = await made.together([(STARTED, {})])
            server = started.get_value(0, 0)
            if self._opened is not None:
                await self._opened(made, self._server not in (None, server))
        except BaseException:
            await made.close()
            raise
        self._server, self._wire = server, made
        return made
