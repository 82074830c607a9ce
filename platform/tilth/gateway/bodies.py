"""Reads a request's body, after its key is known to be good."""

from pydantic import Field

from tilth.core.errors import Invalid
from tilth.datasets.uploading import MOST_PARTS
from tilth.gateway.asks import LARGEST, Body
from tilth.gateway.responses import Receive


class ClientLeft(Exception):
    """The client went away before its request was whole: nothing is done, nobody is answered."""


class Completion(Body):
    """``POST /v1/uploads/{id}/complete``."""

    EXAMPLE = '{"part_ids": ["part-…"]}'

    part_ids: list[str] = Field(min_length=1, max_length=MOST_PARTS)
    md5: str | None = Field(default=None, pattern="^[0-9a-fA-F]{32}$")


async def read_body(headers: list[tuple[bytes, bytes]], receive: Receive) -> bytes:
    """The whole body; raises Invalid as soon as it is too large, ClientLeft."""
    declared = next((value for name, value in headers if name == b"content-length"), b"0")
    if not declared.isdigit() or int(declared) > LARGEST:
        raise _too_large()
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        part = message.get("body", b"")
        size, more = size + len(part), message.get("more_body", False)
        if size > LARGEST:
            raise _too_large()
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large() -> Invalid:
    return Invalid("The body is over 2 MiB; send less at a time.", code="body_too_large")
