"""The one ASGI entry: inference, uploads and health go to the thin app, everything else to Django."""

import asyncio
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tilth.settings.dev")

from django.core.asgi import get_asgi_application

django = get_asgi_application()

from django.conf import settings  # noqa: E402
from django.http.request import split_domain_port, validate_host  # noqa: E402

from tilth.core.errors import Invalid, Unavailable  # noqa: E402
from tilth.gateway.app import Gateway, gateway_from_settings  # noqa: E402
from tilth.gateway.responses import Receive, Scope, Send, send_error  # noqa: E402

BEGIN_S = 30.0
"""Within which Django has begun to answer; longer only takes a database that hangs."""


class Entry:
    """Dispatches by path; the server's lifespan starts and stops the thin app."""

    def __init__(self) -> None:
        self._gateway: Gateway | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] == "http" and scope["path"] != "/healthz" and not _for_us(scope["headers"]):
            await send_error(send, Invalid("The Host header names no host of this service.", code="bad_host"))
            return
        try:
            if self._gateway is not None and scope["type"] == "http" and self._gateway.serves(scope):
                await self._gateway(scope, receive, send)
            else:
                await _timely(scope, receive, send)
        except asyncio.CancelledError:  # the server goes down and waits no longer; uvicorn would answer 500
            await send_error(send, Unavailable("The service is restarting; try again."))

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            self._gateway = gateway_from_settings()
            await self._gateway.start()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._gateway.stop()
        await send({"type": "lifespan.shutdown.complete"})


def _for_us(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether there is one Host and it is ours. Probes of /healthz ask by any address: nothing there repeats it."""
    hosts = [value for name, value in headers if name == b"host"]
    return len(hosts) == 1 and _allowed(hosts[0])


@lru_cache(1024)
def _allowed(host: bytes) -> bool:
    domain, _ = split_domain_port(host.decode("latin-1").lower())
    return bool(domain) and validate_host(domain, settings.ALLOWED_HOSTS)


async def _timely(scope: Scope, receive: Receive, send: Send) -> None:
    """Django's answer, or a 503 if it does not begin in time.

    Its thread cannot be stopped: what it still does in peace counts, and a retry finds it; what it still says does not.
    """
    begun: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def in_time(message: Mapping[str, Any]) -> None:
        if not begun.done():
            begun.set_result(True)
        if begun.result():
            await send(message)

    answering = asyncio.create_task(django(scope, receive, in_time))
    either: set[asyncio.Future[Any]] = {answering, begun}
    try:
        await asyncio.wait(either, timeout=BEGIN_S, return_when=asyncio.FIRST_COMPLETED)
        if begun.done() or answering.done():
            await answering
            return
    except asyncio.CancelledError:
        answering.cancel()
        raise
    begun.set_result(False)
    await send_error(send, Unavailable("The database does not answer; try again."))


application: Any = Entry()
