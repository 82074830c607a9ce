"""Takes the one file of a form into storage, then makes its row: memory stays flat, nothing is left of a half."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol, TypeVar

from django.db import close_old_connections

from tilth.core import storage
from tilth.core.errors import Invalid, TilthError
from tilth.core.storage import StoredObject, Writer
from tilth.gateway.bodies import ClientLeft
from tilth.gateway.multipart import Form
from tilth.gateway.responses import Receive

ROW_S = 30.0
"""Within which Django has answered; longer only takes a database that hangs."""

T = TypeVar("T")


class Stored(Protocol):
    """A row, or an answer, that names the object it has in storage."""

    @property
    def path(self) -> str:
        """Below TILTH_ARTIFACTS."""


S = TypeVar("S", bound=Stored)


@asynccontextmanager
async def writing(path: str) -> AsyncIterator[Writer]:
    """An object alone in its folder, to be committed in the block; an error or a cancellation leaves nothing."""
    writer = await asyncio.to_thread(Writer, path)
    try:
        yield writer
    except BaseException:
        await asyncio.shield(asyncio.to_thread(_undo, writer))
        raise


async def receive_file(receive: Receive, form: Form, writer: Writer, *, most: int, cure: str) -> None:
    """The whole body, a mebibyte at a time; disk and hash work is done in a thread, one piece after the other.

    Raises Invalid for a body over ``most`` bytes and for a form without its end, ClientLeft when the client goes away.
    """
    pieces: list[bytes] = []
    waiting = received = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        body, more = message.get("body", b""), message.get("more_body", False)
        received += len(body)
        refuse_large(received, most, cure)
        pieces.append(form.feed(body))
        waiting += len(pieces[-1])
        if waiting >= storage.CHUNK or (not more and waiting):
            await asyncio.to_thread(writer.write, b"".join(pieces))
            pieces, waiting = [], 0
    if not form.whole:
        raise Invalid("The form ends before its closing boundary; send it again.", code="bad_multipart")


def refuse_large(size: int, most: int, cure: str) -> None:
    """Raises Invalid for a body over ``most`` bytes."""
    if size > most:
        raise Invalid(f"The body is over {most >> 20:,} MiB; {cure}.", code="file_too_large")


async def kept(make: "partial[S]", stored: StoredObject) -> S:
    """The row of a stored object; if it was refused, or an earlier one is the same, these bytes go.

    After any other error the row may have been committed: the bytes stay, and without a row they are swept in a day.
    """
    try:
        made = await in_django(make)
    except TilthError:
        await asyncio.to_thread(_remove, stored.path)
        raise
    if made.path != stored.path:
        await asyncio.to_thread(_remove, stored.path)
    return made


async def in_django(call: "partial[T]") -> T:
    """A service's answer, from a thread; TimeoutError leaves it to its thread, which may still commit."""
    async with asyncio.timeout(ROW_S):
        return await asyncio.shield(asyncio.to_thread(_connected, call))


def _connected(call: "partial[T]") -> T:
    try:
        return call()
    finally:
        close_old_connections()


def _undo(writer: Writer) -> None:
    writer.abort()
    _remove(writer.path)


def _remove(path: str) -> None:
    storage.delete_prefix(path.rpartition("/")[0])
