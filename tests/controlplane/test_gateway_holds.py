"""A budget under siege: three gateway processes, PostgreSQL killed in the middle; no overshoot, no false refusal."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from django.conf import settings
from tilth.core.errors import TilthError
from tilth.dataplane.fake_predictions import FakePredictions, running
from tilth.gateway.predictions import most_tokens
from tilth.usage import services as usage
from tilth.usage.fold import fold_once
from tilth.usage.models import Price

from tests.controlplane.gateway_rig import deploy, events, eventually, held, restart_by_kill, send
from tests.web import Web, webs

ROOM = 100
ASKED = 200
GATEWAYS = 3
TOKENS = 150
"""That one request may read at most, and that the fake says it has read: 3 micro-USD to the last digit."""
COST = TOKENS * 20 // 1000
PATIENCE_S = 40.0

pytestmark = pytest.mark.slow


def body_of(tokens: int) -> bytes:
    """A request of one row that is held for so many tokens."""
    empty = json.dumps({"model": "ft:test", "inputs": [{"text": ""}]})
    return empty.replace('""', json.dumps("x" * (tokens - most_tokens(len(empty), 1)))).encode()


BODY = body_of(TOKENS)


@pytest.fixture(scope="module")
def siege(database: Any) -> Iterator[tuple[list[Web], FakePredictions]]:
    """Gateways over one faked data plane."""
    Price.objects.create(unit="prediction.tokens", title="Tokens read", micro_usd=20, per_quantity=1000)
    plane = FakePredictions(load_pem_public_key((Path(settings.ENV.signing_key).parent / "verify.pem").read_bytes()))  # type: ignore[arg-type]
    plane.tokens_per_row = TOKENS
    with running(plane) as url, webs(GATEWAYS, TILTH_DATAPLANE_URL=url) as gateways:
        yield gateways, plane


@pytest.mark.parametrize("dies_at", [ROOM // 2, ROOM], ids=["while holds are placed", "when all room is held"])
def test_two_hundred_at_once_through_three_gateways_spend_a_budget_for_hundred_though_postgresql_is_killed(
    siege: tuple[list[Web], FakePredictions], tenant: Any, database: Any, dies_at: int
) -> None:
    gateways, plane = siege
    with psycopg.connect(database.url("postgres"), autocommit=True) as db:
        deploy(db, tenant)
    usage.budget_change(tenant=tenant.id, by=tenant.principal, limit_micro_usd=ROOM * COST)
    plane.delay_s, before, most = 3.0, plane.asked, [0]
    with ThreadPoolExecutor(ASKED) as pool, watched(plane, most):
        asking = [pool.submit(ask_to_the_end, gateways[n % GATEWAYS], tenant) for n in range(ASKED)]
        assert eventually(lambda: plane.asked - before >= dies_at)
        assert plane.asked - before < ROOM + 1, "it dies in the middle"
        restart_by_kill(database)
        with folding():
            told = Counter(answer.result() for answer in asking)
    assert most[0] <= ROOM, "no more were ever under way than there was room for"
    assert set(told) == {200, 402}
    with psycopg.connect(database.url("postgres"), autocommit=True) as db:
        assert eventually(lambda: fold_once() >= 0 and all(now == sum_ for now, sum_ in held(db, tenant)))
        plane.delay_s = 0.0
        told += fill_up(gateways, tenant)
        assert told[200] == ROOM, "what is left after the kill can be used at once, and nothing more"
        assert len(events(db, tenant)) == ROOM
        assert eventually(lambda: fold_once() >= 0 and held(db, tenant) == [])
        spent = db.execute("SELECT spent_micro_usd FROM usage_budget WHERE tenant_id = %s", [tenant.id]).fetchone()
        assert spent == (ROOM * COST,)


def ask_to_the_end(gateway: Web, tenant: Any) -> int:
    """Asks again after each 503, as a client does; any other status is the answer."""
    ends = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends:
        answer = send(gateway.url, "POST", "/v1/predictions", tenant.key, BODY)
        if answer.status != 503:
            return answer.status
        time.sleep(0.2)
    raise AssertionError(f"still {answer.body} after {PATIENCE_S} s")


def fill_up(gateways: list[Web], tenant: Any) -> Counter[int]:
    """One after the other until all refuse, folding in between."""
    told: Counter[int] = Counter()
    for number in range(ASKED):
        fold_once()
        status = ask_to_the_end(gateways[number % GATEWAYS], tenant)
        told[status] += 1
        if status == 402:
            break
    return told


@contextmanager
def watched(plane: FakePredictions, most: list[int]) -> Iterator[None]:
    """The most requests that are at the plane at once, or were answered by it before."""
    before = plane.asked

    def look() -> None:
        most[0] = max(most[0], plane.asked - before)

    with again_and_again(look, 0.005):
        yield


@contextmanager
def folding() -> Iterator[None]:
    """What the worker does meanwhile."""

    def fold() -> None:
        with suppress(psycopg.Error, TilthError, OSError):
            fold_once()

    with again_and_again(fold, 0.1):
        yield


@contextmanager
def again_and_again(act: Callable[[], None], pause_s: float) -> Iterator[None]:
    """In a thread, for the time of the block."""
    ended = threading.Event()

    def go_on() -> None:
        while not ended.wait(pause_s):
            act()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
