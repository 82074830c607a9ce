"""One connection that is opened when needed and opened anew when it was lost."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

from psycopg import AsyncConnection

from tilth.gateway.database import Row, Statement, connect, lost, together

ANSWER_S = 12.0
"""A statement that takes longer counts as a lost connection."""
STARTED = "SELECT pg_postmaster_start_time()"


class Link:
    """A connection for one kind of batch. ``restarted`` is called on it when the server has been started anew."""

    def __init__(
        self,
        url: str,
        *,
        synchronous_commit: bool,
        restarted: Callable[[AsyncConnection[Row]], Awaitable[None]] | None = None,
    ) -> None:
        self._url = url
        self._synchronous_commit = synchronous_commit
        self._restarted = restarted
        self._connection: AsyncConnection[Row] | None = None
        self._server: datetime | None = None

    async def together(self, statements: Sequence[Statement]) -> list[list[Row]]:
        """One transaction, committed on return; on failure of the connection it is closed and the error raised."""
        connection = self._connection or await self._open()
        try:
            async with asyncio.timeout(ANSWER_S):
                return await together(connection, statements)
        except BaseException as error:
            if lost(error) or isinstance(error, asyncio.CancelledError):
                await self.close()
            raise

    async def close(self) -> None:
        """Lets go of the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _open(self) -> AsyncConnection[Row]:
        made = await connect(self._url, synchronous_commit=self._synchronous_commit)
        ((started,),) = await together(made, [(STARTED, [])])
        if self._server not in (None, started[0]) and self._restarted is not None:
            await self._restarted(made)
        self._server = started[0]
        self._connection = made
        return made
