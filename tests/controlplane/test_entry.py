"""The one ASGI entry, where a server that goes down leaves a request."""

import asyncio
from typing import Any

import pytest
from tilth import asgi


async def test_a_request_cut_off_by_a_restart_is_told_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hangs(*_: Any) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(asgi, "django", hangs)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def never() -> Any:
        raise AssertionError

    scope = {"type": "http", "method": "GET", "path": "/v1/models", "headers": []}
    request = asyncio.create_task(asgi.Entry()(scope, never, send))
    await asyncio.sleep(0.01)
    request.cancel()
    await request
    assert sent[0]["status"] == 503
    assert b"retry-after" in {name.lower() for name, _ in sent[0]["headers"]}
