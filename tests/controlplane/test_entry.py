"""The one ASGI entry, where a server that goes down leaves a request."""

import asyncio
from typing import Any

import pytest
from tilth import asgi

HOST = [(b"host", b"testserver")]


async def test_a_request_cut_off_by_a_restart_is_told_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hangs(*_: Any) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(asgi, "django", hangs)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/v1/models", "headers": HOST}
    request = asyncio.create_task(asgi.Entry()(scope, never, send))
    await asyncio.sleep(0.01)
    request.cancel()
    await request
    assert sent[0]["status"] == 503
    assert b"retry-after" in {name.lower() for name, _ in sent[0]["headers"]}


async def test_django_that_does_not_begin_to_answer_in_time_is_a_503_and_what_it_says_later_is_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recovered = asyncio.Event()
    said: list[int] = []

    async def late(_: Any, __: Any, send: Any) -> None:
        await recovered.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        said.append(200)

    monkeypatch.setattr(asgi, "django", late)
    monkeypatch.setattr(asgi, "BEGIN_S", 0.01)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await asgi.Entry()({"type": "http", "method": "GET", "path": "/v1/models", "headers": HOST}, never, send)
    recovered.set()
    await asyncio.sleep(0.01)
    assert said == [200]
    assert [message.get("status") for message in sent] == [503, None]


async def test_an_answer_that_has_begun_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def long(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0.05)
        await send({"type": "http.response.body", "body": b"all of it"})

    monkeypatch.setattr(asgi, "django", long)
    monkeypatch.setattr(asgi, "BEGIN_S", 0.01)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await asgi.Entry()({"type": "http", "method": "GET", "path": "/v1/models", "headers": HOST}, never, send)
    assert [message.get("body") for message in sent] == [None, b"all of it"]


async def never() -> Any:
    raise AssertionError
