"""``POST /v1/files``: the body streams through a parser into storage, hashed on the way; memory stays flat."""

import asyncio
from functools import partial
from http import HTTPStatus
from typing import Any

from django.db import close_old_connections

from tilth.core import storage
from tilth.core.crash import crash_point
from tilth.core.errors import Invalid, TilthError
from tilth.core.ids import uuid7
from tilth.core.storage import StoredObject, Writer
from tilth.datasets.models import File
from tilth.datasets.services import file_create, file_path, refuse_wish
from tilth.datasets.shapes import file_shape
from tilth.gateway.bodies import ClientLeft
from tilth.gateway.multipart import Form
from tilth.gateway.responses import Receive, Scope, Send, send_json
from tilth.tenants.principal import Principal

LARGEST = 4 << 30
"""Bytes of a body."""
ROW_S = 30.0
"""Within which the row is made; longer only takes a database that hangs."""


async def upload_file(scope: Scope, receive: Receive, send: Send, principal: Principal) -> None:
    """Stores a file and answers as OpenAI does. Its caller has checked that the principal may write files.

    Raises Invalid for a bad form and ClientLeft when the client goes away: then nothing is stored.
    """
    headers = dict(scope["headers"])
    if int(headers.get(b"content-length", b"0")) > LARGEST:
        raise _too_large()
    form, file = Form(headers.get(b"content-type", b"")), uuid7()
    writer = await asyncio.to_thread(Writer, file_path(principal.tenant, file))
    try:
        await _stream(receive, form, writer)
        wish = _wish(form)
        stored = await asyncio.to_thread(writer.commit)
    except BaseException:
        await _undo(writer)
        raise
    crash_point("upload.stored")
    retried = headers.get(b"x-stainless-retry-count", b"0") not in (b"", b"0")
    made = await _kept(principal, stored, file=file, filename=form.filename or "file", retried=retried, **wish)
    crash_point("upload.committed")
    await send_json(send, file_shape(made), status=HTTPStatus.OK)


async def _stream(receive: Receive, form: Form, writer: Writer) -> None:
    """The whole body, a mebibyte at a time; disk and hash work is done in a thread, one piece after the other."""
    pieces: list[bytes] = []
    waiting = received = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        body, more = message.get("body", b""), message.get("more_body", False)
        received += len(body)
        if received > LARGEST:
            raise _too_large()
        pieces.append(form.feed(body))
        waiting += len(pieces[-1])
        if waiting >= storage.CHUNK or (not more and waiting):
            await asyncio.to_thread(writer.write, b"".join(pieces))
            pieces, waiting = [], 0
    if not form.whole:
        raise Invalid("The form ends before its closing boundary; send it again.", code="bad_multipart")


def _wish(form: Form) -> dict[str, Any]:
    """Purpose and life; raises Invalid naming the field at fault."""
    if form.filename is None:
        raise Invalid("The form has no file; send one in the field file.", param="file")
    if "purpose" not in form.fields:
        raise Invalid("The form has no purpose; send purpose=fine-tune.", param="purpose")
    if (anchor := form.fields.get("expires_after[anchor]", "created_at")) != "created_at":
        raise Invalid(f"The anchor is created_at, found {anchor!r}.", param="expires_after[anchor]")
    seconds = form.fields.get("expires_after[seconds]", "")
    if seconds and not (seconds.isascii() and seconds.isdigit()):
        raise Invalid(f"expires_after[seconds] is a number, found {seconds!r}.", param="expires_after[seconds]")
    purpose, expires_after_s = form.fields["purpose"], int(seconds) if seconds else None
    refuse_wish(purpose, expires_after_s)
    return {"purpose": purpose, "expires_after_s": expires_after_s}


async def _kept(principal: Principal, stored: StoredObject, **facts: Any) -> File:
    """The row of the stored file; if it was refused, or an earlier one is the same, these bytes go.

    After any other error the row may have been committed: the bytes stay, and without a row they are swept in a day.
    """
    make = partial(file_create, tenant=principal.tenant, by=principal, stored=stored, **facts)
    try:
        async with asyncio.timeout(ROW_S):
            made = await asyncio.shield(asyncio.to_thread(_in_django, make))
    except TilthError:
        await asyncio.to_thread(_remove, stored)
        raise
    if made.path != stored.path:
        await asyncio.to_thread(_remove, stored)
    return made


def _in_django(make: partial[File]) -> File:
    try:
        return make()
    finally:
        close_old_connections()


def _remove(stored: StoredObject) -> None:
    storage.delete_prefix(stored.path.rpartition("/")[0])


async def _undo(writer: Writer) -> None:
    """Also when this task is being cancelled."""
    await asyncio.shield(asyncio.to_thread(writer.abort))
    await asyncio.shield(asyncio.to_thread(storage.delete_prefix, writer.path.rpartition("/")[0]))


def _too_large() -> Invalid:
    return Invalid(f"The body is over {LARGEST >> 30} GiB; split the file.", code="file_too_large")
