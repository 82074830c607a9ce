"""A gateway's memory: every cache is bounded, and the web process stays small under requests of all kinds."""

import asyncio
import os
import subprocess
import sys
import tracemalloc
from datetime import date
from uuid import uuid4

import pytest
from tilth.dataplane.access import grants
from tilth.dataplane.fake_predictions import FakePredictions, running
from tilth.dataplane.keys import signing_key
from tilth.dataplane.tokens import Tokens
from tilth.gateway import fresh, holds, replies, upstream
from tilth.gateway.fresh import Fresh
from tilth.gateway.holds import Ensure
from tilth.gateway.http1 import Http1
from tilth.gateway.lookups import Target
from tilth.gateway.replies import Replies
from tilth.gateway.upstream import Upstream

BODY = bytes(32)
"""The hash of a request's body."""


async def echo(key: str) -> str:
    return key


async def test_look_ups_beyond_their_number_push_out_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh, "SIZE", 100)
    asked: list[str] = []

    async def load(key: str) -> str:
        asked.append(key)
        return key

    known: Fresh[str, str] = Fresh(load, life_s=60)
    for number in range(1000):
        assert await known.get(str(number)) == str(number)
        assert await known.get("0" if number < 50 else str(number)) is not None
    assert len(known) == 100
    assert await known.get("999") == "999"
    assert asked.count("999") == asked.count("0") == 1


async def test_look_ups_that_are_too_old_are_forgotten_when_a_new_one_comes() -> None:
    known: Fresh[str, str] = Fresh(echo, life_s=0.01)
    for number in range(1000):
        await known.get(str(number))
    await asyncio.sleep(0.02)
    await known.get("new")
    assert len(known) == 1


@pytest.mark.slow
async def test_kept_answers_take_the_memory_they_are_allowed_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "LARGEST", 1 << 20)
    kept = Replies()
    tracemalloc.start()
    try:
        for number in range(10_000):
            task = asyncio.create_task(made(number))
            kept.keep(number.to_bytes(32), BODY, task)
            await task
        await asyncio.sleep(0)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 1000 < len(kept) < 3000
    assert taken < 1.3 * replies.LARGEST
    assert kept.find((9_999).to_bytes(32), BODY) == await made(9_999)
    assert kept.find((1).to_bytes(32), BODY) is None


async def made(number: int) -> bytes:
    return number.to_bytes(300)


async def test_answers_older_than_their_life_go_when_a_new_one_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "LIFE_S", 0.01)
    kept = Replies()
    for number in range(100):
        task = asyncio.create_task(made(number))
        kept.keep(number.to_bytes(32), BODY, task)
        await task
    await asyncio.sleep(0.02)
    kept.keep(b"new", BODY, asyncio.create_task(made(0)))
    assert len(kept) == 1
    await asyncio.sleep(0)


async def test_grants_and_budgets_that_were_made_are_remembered_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "GRANTS", 50)
    monkeypatch.setattr(holds, "BUDGETS", 50)
    monkeypatch.setattr(holds, "_ensure_budgets", lambda *_: None)
    tenant = uuid4()
    plane, ensure = Upstream("http://127.0.0.1:1", Tokens(signing_key()), grants()), Ensure()
    for number in range(120):
        plane._model(Target(f"sha256:{number}", f"tenants/{tenant.hex}/jobs/{number}/", "support_chat", "minilm-l6"))
        await ensure(uuid4(), date(2026, 1, 1), None, None)
    assert len(plane._granted) <= 50
    assert len(ensure._made) <= 50


async def test_a_kept_alive_connection_holds_no_answer() -> None:
    with running(FakePredictions()) as url:
        client = Http1(url)
        asked = b'{"inputs": [{}], "model": {"digest": "d"}}'
        assert (await client.post("/predictions", asked, bearer="")).status == 200
        [idle] = client._free
        assert (idle._parts, idle._answer) == ([], None)
        assert (await client.post("/predictions", asked, bearer="")).status == 200
        assert client._free == [idle]
        await client.close()


@pytest.mark.slow
def test_the_web_process_does_not_load_what_only_the_child_that_reads_files_needs() -> None:
    code = "import sys, tilth.asgi; print(sorted({'duckdb', 'torch', 'ray', 'numpy', 'pandas'} & set(sys.modules)))"
    asked = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(asked, env=os.environ.copy(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_web_process_that_answered_many_requests_of_every_kind_stays_below_its_limit() -> None:
    from tests.bench.bench_gateway_soak import MOST_MB, REQUESTS, soak

    found = soak(REQUESTS[0])
    asked = sum(found.answers.values())
    assert asked == REQUESTS[0]
    assert found.stored >= found.answers["hot 200"] + found.answers["cold 200"] == 0.78 * asked
    assert max(resident for _, resident in found.samples) <= MOST_MB
