"""``POST /v1/files``: the body streams through a parser into storage, hashed on the way."""

import asyncio
from functools import partial
from typing import Any

from tilth.core.crash import crash_point
from tilth.core.errors import Invalid
from tilth.core.ids import uuid7
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
    make = partial(
        file_create, tenant=principal.tenant, by=principal, file=file, filename=form.filename or "", stored=stored,
        retried=headers.get(b"x-stainless-retry-count", b"0") not in (b"", b"0"), **wish,
    )  # fmt: skip
    made = await kept(make, stored)
    crash_point("upload.committed")
    await send_json(send, file_shape(made))


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
