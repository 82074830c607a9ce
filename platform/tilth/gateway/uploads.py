"""``POST /v1/files``: the body streams through a parser into storage, hashed on the way."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from django.http.request import HttpHeaders

from tilth.core.crash import crash_point
from tilth.core.errors import Invalid
from tilth.core.idempotency import Asked, asked, once
from tilth.core.ids import public, uuid7
from tilth.core.storage import StoredObject
from tilth.datasets.services import file_create, file_path, refuse_wish
from tilth.datasets.shapes import file_shape
from tilth.gateway.multipart import Form, Layout
from tilth.gateway.receiving import kept, receive_file, refuse_large, writing
from tilth.gateway.responses import Receive, Scope, Send, send_json
from tilth.tenants.principal import Principal

LARGEST = 4 << 30
"""Bytes of a body."""
SPLIT = "split the file, or send it in parts to /v1/uploads"
LAYOUT = Layout(
    file="file",
    fields=("purpose", "expires_after[anchor]", "expires_after[seconds]"),
    how="Send multipart/form-data with the fields purpose and file.",
)


async def upload_file(scope: Scope, receive: Receive, send: Send, principal: Principal) -> None:
    """Stores a file and answers as OpenAI does. Its caller has checked that the principal may write files.

    Raises Invalid for a bad form and ClientLeft when the client goes away: then nothing is stored.
    """
    headers = dict(scope["headers"])
    refuse_large(int(headers.get(b"content-length", b"0")), LARGEST, SPLIT)
    form, file = Form(headers.get(b"content-type", b""), LAYOUT), uuid7()
    async with writing(file_path(principal.tenant, file)) as writer:
        await receive_file(receive, form, writer, most=LARGEST, cure=SPLIT)
        wish = _wish(form)
        stored = await asyncio.to_thread(writer.commit)
    crash_point("upload.stored")
    filename = form.filename or ""
    same = (principal.actor, "POST", "/v1/files", stored.sha256, filename, str(sorted(wish.items())))
    make = partial(_made, principal, asked(_text(headers), *same), stored, file=file, filename=filename, **wish)
    answered = await kept(make, stored)
    crash_point("upload.committed")
    await send_json(send, answered.shape)


@dataclass
class Answered:
    """The reply, and where its file lies as far as that is our doing: an earlier upload's lies elsewhere."""

    path: str
    shape: dict[str, Any]


def _made(principal: Principal, this: Asked, stored: StoredObject, *, file: UUID, **facts: Any) -> Answered:
    def make() -> dict[str, Any]:
        return file_shape(file_create(tenant=principal.tenant, by=principal, file=file, stored=stored, **facts))

    reply = once(tenant=principal.tenant, request=this, make=make)
    return Answered(stored.path if reply["id"] == public("file", file) else "", reply)


def _text(headers: Mapping[bytes, bytes]) -> Mapping[str, str]:
    """By their names in any case, as Django has them."""
    return HttpHeaders({f"HTTP_{name.decode('latin-1')}": value.decode("latin-1") for name, value in headers.items()})


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
