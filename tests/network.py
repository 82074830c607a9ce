"""A network that can be broken: a TCP proxy that cuts, delays, swallows, resets, drips, or drops replies."""

import asyncio
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress
from enum import StrEnum, auto
from urllib.parse import urlsplit

CHUNK = 1 << 16
DROP = 8


class Fault(StrEnum):
    """What happens to every connection, old or new, from now on."""

    NONE = auto()
    CUT = auto()
    """Closed as soon as it is used."""
    RESET = auto()
    """The same, by RST."""
    HALF_OPEN = auto()
    """Taken, and never a word passes."""
    DELAY = auto()
    """Each piece of a reply comes ``delay_s`` later."""
    DRIP = auto()
    """Replies come a few bytes at a time, ``drip_s`` apart."""
    REPLY_DROPPED = auto()
    """The request arrives and is done; instead of its reply the connection ends."""


BROKEN = (Fault.CUT, Fault.RESET, Fault.HALF_OPEN, Fault.REPLY_DROPPED)
SLOW = (Fault.DELAY, Fault.DRIP)


class Network:
    """The proxy before one server; ``fault`` may be changed at any time."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self.port = parts.port or 0
        """Of the server."""
        self._target = (parts.hostname or "", self.port)
        self.fault = Fault.NONE
        self.delay_s = 0.2
        self.drip_s = 0.0005
        self.passed = 0
        """Requests (pieces of them) that reached the server."""
        self.hurt = 0
        """Pieces of requests or replies that a fault has met."""
        self.url = ""
        self._open: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Listens on a free port of loopback."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield
        server.close()
        while self._open:  # each handler ends by itself once its two ends are gone
            for writer in self._open:
                writer.transport.abort()
            await asyncio.sleep(0.01)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(*self._target)
        except OSError:  # as if the server itself had refused
            writer.close()
            return
        self._open |= {writer, back}
        ways = [
            asyncio.ensure_future(self._requests(reader, back)),
            asyncio.ensure_future(self._replies(there, writer)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        if self.fault is Fault.RESET:
            _reset_on_close(writer)
        for end in (back, writer):
            end.close()
            with suppress(OSError):
                await end.wait_closed()
            self._open.discard(end)

    async def _requests(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        while piece := await reader.read(CHUNK):
            self.hurt += self.fault is not Fault.NONE
            if self.fault is Fault.HALF_OPEN:
                continue
            if self.fault in (Fault.CUT, Fault.RESET):
                return
            self.passed += 1
            back.write(piece)
            await back.drain()

    async def _replies(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await there.read(CHUNK):
            self.hurt += self.fault is not Fault.NONE
            match self.fault:
                case Fault.CUT | Fault.RESET | Fault.REPLY_DROPPED:
                    return
                case Fault.HALF_OPEN:
                    continue
                case Fault.DELAY:
                    await asyncio.sleep(self.delay_s)
                case Fault.DRIP:
                    while len(piece) > DROP:
                        writer.write(piece[:DROP])
                        await writer.drain()
                        await asyncio.sleep(self.drip_s)
                        piece = piece[DROP:]
            writer.write(piece)
            await writer.drain()


def _reset_on_close(writer: asyncio.StreamWriter) -> None:
    wire: socket.socket = writer.get_extra_info("socket")
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextmanager
def network(target: str) -> Iterator[Network]:
    """Runs in a thread of its own."""
    made, ends = Network(target), Future[Callable[[], object]]()

    async def run() -> None:
        loop, end = asyncio.get_running_loop(), asyncio.Event()
        async with made.open():
            ends.set_result(lambda: loop.call_soon_threadsafe(end.set))
            await end.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    end = ends.result(10)
    try:
        yield made
    finally:
        end()
        thread.join(10)
