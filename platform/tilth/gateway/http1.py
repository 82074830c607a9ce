"""A lean HTTP/1.1 client for one server: kept-alive connections, whole bodies, nothing else.

aiohttp's client took 40 % of the gateway's time on each prediction.
"""

import asyncio
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import httptools

CONNECTIONS = 512
LARGEST = 64 * 1024 * 1024
"""Bytes of an answer."""
SILENCE_S = 4.0
"""After which a server that owes an answer is asked on a new connection whether it is there, and as long to say so."""


class Broken(ConnectionError):
    """The server closed, or spoke something else than HTTP; ``unheard`` if it had not answered a byte."""

    def __init__(self, why: str, *, unheard: bool) -> None:
        super().__init__(why)
        self.unheard = unheard


@dataclass(frozen=True)
class Reply:
    """A whole answer."""

    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self.reusable = True
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._size = 0
        self._heard = False
        self._asked_at = 0.0
        self._answer: asyncio.Future[Reply] | None = None
        self._transport: asyncio.Transport | None = None

    def ask(self, request: bytes) -> asyncio.Future[Reply]:
        """Sends a request; the future holds its answer or Broken."""
        self._parts, self._size, self._heard = [], 0, False
        self._asked_at = time.monotonic()
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport is None or self._transport.is_closing():
            self._fail("the connection was closed")
        else:
            self._transport.write(request)
        return self._answer

    def silent_s(self) -> float:
        """For how long an answer has been waited for."""
        return time.monotonic() - self._asked_at

    def give_up(self, why: str) -> None:
        """Waits no longer; the request may have been heard, so nobody sends it again by himself."""
        self._heard = True
        self._fail(why)
        self.close()

    def close(self) -> None:
        """Not to be used again."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's word that it is open."""
        self._transport = transport  # type: ignore[assignment]  # a stream's

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's word that it is closed."""
        self.reusable = False
        self._fail(f"the connection was lost: {exc!r}")

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer."""
        self._heard = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"this is no HTTP: {error}")
            self.close()

    def on_body(self, part: bytes) -> None:
        """The parser's word of a part of the body."""
        self._parts.append(part)
        self._size += len(part)
        if self._size > LARGEST:
            self._fail(f"the answer is over {LARGEST} bytes")
            self.close()

    def on_message_complete(self) -> None:
        """The parser's word that the answer is whole."""
        self.reusable = self.reusable and bool(self._parser.should_keep_alive())
        answer, parts = self._answer, self._parts
        self._answer, self._parts = None, []  # an idle connection holds no answer in memory
        if answer is not None and not answer.done():
            answer.set_result(Reply(self._parser.get_status_code(), b"".join(parts)))

    def _fail(self, why: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Broken(why, unheard=not self._heard))


class Http1:
    """Requests to ``http://host:port``, any number at a time, at most CONNECTIONS under way.

    A network that swallows everything says nothing of it: while an answer is owed for long the server is asked on a
    connection of its own, and if that is not answered either, all who wait are told instead of waiting on.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"an address like http://host:port is needed, found {url!r}")
        self._host, self._port = parts.hostname, parts.port or 80
        self._free: list[Connection] = []
        self._waiting: set[Connection] = set()
        self._watch: asyncio.Task[None] | None = None
        self._places = asyncio.Semaphore(CONNECTIONS)

    async def post(self, path: str, body: bytes, *, bearer: str) -> Reply:
        """JSON to a path; raises OSError when the server cannot be reached, breaks off or is not there any more."""
        head = f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nAuthorization: Bearer {bearer}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        request = head.encode() + body
        async with self._places:
            while self._free:
                try:
                    return await self._on(self._free.pop(), request)
                except Broken as broken:
                    if not broken.unheard:
                        raise
            return await self._on(await self._connect(), request)

    async def close(self) -> None:
        """Closes what is open."""
        if self._watch is not None:
            self._watch.cancel()
        self._drop_free()

    async def _on(self, connection: Connection, request: bytes) -> Reply:
        """A kept-alive connection that its server closed just then is found unheard: the next one is tried."""
        self._waiting.add(connection)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._watch_over())
        try:
            reply = await connection.ask(request)
        except BaseException:
            connection.close()
            raise
        finally:
            self._waiting.discard(connection)
        if connection.reusable:
            self._free.append(connection)
        else:
            connection.close()
        return reply

    async def _watch_over(self) -> None:
        """As long as anybody waits."""
        while self._waiting:
            await asyncio.sleep(SILENCE_S)
            if any(each.silent_s() > SILENCE_S for each in self._waiting) and not await self._is_there():
                for connection in tuple(self._waiting):
                    connection.give_up(f"the server has not answered anything for {SILENCE_S} s")
                self._drop_free()

    async def _is_there(self) -> bool:
        """Whether the server says anything at all to a stranger, be it a refusal."""
        asked = f"GET / HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nConnection: close\r\n\r\n".encode()
        try:
            async with asyncio.timeout(SILENCE_S):
                connection = await self._connect()
                try:
                    await connection.ask(asked)
                finally:
                    connection.close()
        except OSError:
            return False
        return True

    def _drop_free(self) -> None:
        while self._free:
            self._free.pop().close()

    async def _connect(self) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(Connection, self._host, self._port)
        return connection
