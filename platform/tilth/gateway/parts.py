"""``POST /v1/uploads/{id}/parts`` and ``…/complete``: parts stream into storage; the file is put together from them."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from hashlib import md5
from typing import Any
from uuid import UUID

from tilth.core import storage
from tilth.core.crash import crash_point
from tilth.core.errors import Invalid
from tilth.core.ids import parse, uuid7
from tilth.core.storage import Writer
from tilth.datasets.services import file_path
from tilth.datasets.shapes import part_shape, upload_shape
from tilth.datasets.uploading import (
    PART_BYTES,
    part_create,
    part_path,
    upload_complete,
    upload_plan,
    upload_taking,
)
from tilth.gateway.bodies import Completion
from tilth.gateway.multipart import Form, Layout
from tilth.gateway.receiving import in_django, kept, receive_file, refuse_large, writing
from tilth.gateway.responses import Receive, Scope, Send, send_json
from tilth.tenants.principal import Principal

LARGEST = PART_BYTES + (64 << 10)
"""Bytes of a body, the form around the part included."""
SMALLER = "a part has at most 64 MiB"
LAYOUT = Layout(file="data", how="Send multipart/form-data with the field data.")
AT_ONCE = 2
"""Files being put together; more would only share the disk."""

Key = tuple[UUID, UUID, str]
"""Tenant, upload and the wish as JSON."""


async def upload_part(scope: Scope, receive: Receive, send: Send, principal: Principal, shown: str) -> None:
    """Stores a part of an upload. Its caller has checked that the principal may write files.

    Raises NotFound and Invalid before the body is read if the upload takes no parts, Invalid for a bad form, and
    ClientLeft when the client goes away: then nothing is stored.
    """
    headers, upload, part = dict(scope["headers"]), parse("upload", shown), uuid7()
    await in_django(partial(upload_taking, tenant=principal.tenant, upload=upload))
    refuse_large(int(headers.get(b"content-length", b"0")), LARGEST, SMALLER)
    form = Form(headers.get(b"content-type", b""), LAYOUT)
    async with writing(part_path(principal.tenant, upload, part)) as writer:
        await receive_file(receive, form, writer, most=LARGEST, cure=SMALLER)
        if form.filename is None:
            raise Invalid("The form has no part; send it as a file in the field data.", param="data")
        stored = await asyncio.to_thread(writer.commit)
    crash_point("part.stored")
    make = partial(part_create, tenant=principal.tenant, upload=upload, part=part, stored=stored)
    made = await kept(make, stored)
    crash_point("part.committed")
    await send_json(send, part_shape(made))


class Completions:
    """Puts files together; a retry that comes while its first is under way waits for the same file."""

    def __init__(self) -> None:
        self._under_way: dict[Key, asyncio.Task[dict[str, Any]]] = {}
        self._places = asyncio.Semaphore(AT_ONCE)

    async def complete(self, principal: Principal, shown: str, wish: Completion) -> dict[str, Any]:
        """The completed upload with its file. The work goes on when the client leaves; its retry finds it."""
        upload = parse("upload", shown)
        key = (principal.tenant, upload, wish.model_dump_json())
        if (task := self._under_way.get(key)) is None:
            task = self._under_way[key] = asyncio.create_task(self._completed(principal, upload, wish))
            task.add_done_callback(lambda done: self._ended(key, done))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Breaks off what is under way: those uploads stay open and can be completed again."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, key: Key, task: asyncio.Task[dict[str, Any]]) -> None:
        """An error is looked at here, too, since the client that would be told it may have left."""
        del self._under_way[key]
        if not task.cancelled():
            task.exception()

    async def _completed(self, principal: Principal, upload: UUID, wish: Completion) -> dict[str, Any]:
        plan = partial(upload_plan, tenant=principal.tenant, upload=upload, part_ids=wish.part_ids)
        async with self._places:
            found, paths = await in_django(plan)
            if paths:
                with suppress(FileNotFoundError):  # closed meanwhile, the parts may be swept: the plan tells
                    await _put_together(principal, upload, wish, paths)
                found, paths = await in_django(plan)
        if paths:
            raise Invalid("A part has lost its bytes; send all parts again.", param="part_ids", code="no_bytes")
        return upload_shape(found)


async def _put_together(principal: Principal, upload: UUID, wish: Completion, paths: Sequence[str]) -> None:
    """Makes the file. Each try has an object of its own, so that of two processes one wins and none meets a half."""
    file, digest = uuid7(), md5(usedforsecurity=False) if wish.md5 else None
    async with writing(file_path(principal.tenant, file)) as writer:
        for path in paths:
            await asyncio.to_thread(_append, path, writer, digest)
        if wish.md5 and digest and digest.hexdigest() != wish.md5.lower():
            raise Invalid(
                f"In this order the parts have the MD5 {digest.hexdigest()}, but you said {wish.md5}; check the order.",
                param="md5",
                code="wrong_md5",
            )
        stored = await asyncio.to_thread(writer.commit)
    crash_point("upload.composed")
    make = partial(
        upload_complete, tenant=principal.tenant, by=principal, upload=upload, part_ids=wish.part_ids, file=file,
        stored=stored,
    )  # fmt: skip
    await kept(make, stored)
    crash_point("upload.completed")


def _append(path: str, writer: Writer, digest: Any) -> None:
    for chunk in storage.read_chunks(path):
        writer.write(chunk)
        if digest:
            digest.update(chunk)
