"""The one ASGI entry: inference, uploads and health go to the thin app, everything else to Django."""

import asyncio
import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tilth.settings.dev")

from django.core.asgi import get_asgi_application

django = get_asgi_application()

from tilth.core.errors import Unavailable  # noqa: E402
from tilth.gateway.app import Gateway, gateway_from_settings  # noqa: E402
from tilth.gateway.responses import Receive, Scope, Send, send_error  # noqa: E402


class Entry:
    """Dispatches by path; the server's lifespan starts and stops the thin app."""

    def __init__(self) -> None:
        self._gateway: Gateway | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        try:
            if self._gateway is not None and scope["type"] == "http" and self._gateway.serves(scope):
                await self._gateway(scope, receive, send)
            else:
                await django(scope, receive, send)
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


application: Any = Entry()
