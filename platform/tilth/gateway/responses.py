"""Answers of the thin app: the same error bodies and headers as core.http, over raw ASGI."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

import orjson
import psycopg
from psycopg_pool import PoolTimeout

from tilth.core.errors import TilthError, Unavailable
from tilth.core.http import INTERNAL, as_tilth_error, error_body, error_headers, status_of
from tilth.core.ids import uuid7

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

log = logging.getLogger(__name__)


def new_request_id() -> str:
    """``req_<hex>``; the hex names the request's usage event, too."""
    return f"req_{uuid7().hex}"


async def send_json(
    send: Send,
    body: Any,
    *,
    status: int = HTTPStatus.OK,
    request_id: str = "",
    headers: Mapping[str, str] | None = None,
) -> None:
    """A whole JSON answer; ``body`` may be bytes that are JSON already. A client that has left is no error."""
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    lines = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (b"x-request-id", (request_id or new_request_id()).encode()),
        *((name.encode(), value.encode()) for name, value in (headers or {}).items()),
    ]
    await send({"type": "http.response.start", "status": int(status), "headers": lines})
    await send({"type": "http.response.body", "body": content})


async def send_error(send: Send, error: Exception, *, request_id: str = "") -> None:
    """The answer to an error; what is no error of ours is logged and answered 500."""
    known = known_error(error)
    if known is None:
        log.error("bug in the gateway, request %s", request_id, exc_info=error)
        await send_json(send, INTERNAL, status=500, request_id=request_id)
        return
    await send_json(
        send, error_body(known), status=status_of(known), request_id=request_id, headers=error_headers(known)
    )


def known_error(error: Exception) -> TilthError | None:
    """As core.http, and for the database's own errors, which no Django wraps here."""
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | PoolTimeout):
        log.error("infrastructure: %s", error)
        return Unavailable("The service cannot reach its database; try again.")
    return as_tilth_error(error)
