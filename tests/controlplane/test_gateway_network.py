"""The gateway's way to the models is cut, reset, half open, slow, or loses replies: told honestly, nothing doubled."""

import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.conf import settings
from tilth.dataplane.fake_predictions import FakePredictions, running
from tilth.dataplane.keys import signing_key
from tilth.gateway import http1, upstream
from tilth.usage.fold import fold_once
from tilth.usage.models import Price

from tests.controlplane.gateway_rig import Served, Stack, deploy, events, eventually, held
from tests.network import BROKEN, SLOW, Fault, Network, network

PATIENCE_S = 1.0
SILENCE_S = 0.2


@pytest.fixture
def cable(database: Any) -> Iterator[tuple[Network, Stack]]:
    """A gateway whose way to the models leads over a network that can be broken."""
    Price.objects.create(unit="prediction.tokens", title="Tokens read", micro_usd=20, per_quantity=1000)
    plane = FakePredictions(signing_key().public_key())
    with (
        running(plane) as plane_url,
        network(plane_url) as broken,
        running(Served(settings.ENV.database_url, broken.url)) as url,
    ):
        yield broken, Stack(url, plane, database)


@pytest.fixture
def ready(tenant: Any, sums_db: psycopg.Connection) -> Any:
    """A tenant with a model that answers."""
    deploy(sums_db, tenant)
    return tenant


@pytest.mark.slow
def test_a_prediction_over_a_broken_network_is_503_and_costs_nothing(
    cable: tuple[Network, Stack], ready: Any, sums_db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, stack = cable
    monkeypatch.setattr(upstream, "PATIENCE_S", PATIENCE_S)
    answered = 0
    for fault in BROKEN:
        assert stack.ask(ready.key).status == 200
        answered += 1
        network.fault, before = fault, network.passed
        refused = stack.ask(ready.key)
        assert (refused.status, refused.code, refused.headers["retry-after"]) == (503, "data_plane_down", "1"), fault
        assert (network.passed > before) == (fault is Fault.REPLY_DROPPED), f"{fault} hit where it meant to"
        network.fault = Fault.NONE
        assert stack.ask(ready.key).status == 200, f"after {fault}"
        answered += 1
    assert len(events(sums_db, ready)) == answered
    assert eventually(lambda: fold_once() >= 0 and held(sums_db, ready) == [])


@pytest.mark.slow
@pytest.mark.parametrize("fault", SLOW)
def test_a_prediction_over_a_slow_network_is_answered_and_billed_once(
    cable: tuple[Network, Stack], ready: Any, sums_db: psycopg.Connection, fault: Fault
) -> None:
    network, stack = cable
    network.fault, network.drip_s = fault, 0.005
    begun = time.monotonic()
    assert stack.ask(ready.key).status == 200
    assert time.monotonic() - begun > network.delay_s / 2
    assert len(events(sums_db, ready)) == 1


@pytest.mark.slow
def test_a_request_that_the_network_swallowed_is_given_up_long_before_the_gateways_patience_ends(
    cable: tuple[Network, Stack], ready: Any, sums_db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, stack = cable
    monkeypatch.setattr(http1, "SILENCE_S", SILENCE_S)
    assert stack.ask(ready.key).status == 200
    network.fault = Fault.HALF_OPEN
    begun = time.monotonic()
    refused = stack.ask(ready.key)
    assert (refused.status, refused.code, refused.headers["retry-after"]) == (503, "data_plane_down", "1")
    assert time.monotonic() - begun < upstream.PATIENCE_S / 3
    assert network.hurt == 2, "the request, and the question whether anybody is there"
    network.fault = Fault.NONE
    assert stack.ask(ready.key).status == 200
    assert eventually(lambda: fold_once() >= 0 and held(sums_db, ready) == [])


@pytest.mark.slow
def test_a_slow_answer_of_a_server_that_is_there_is_waited_for(
    cable: tuple[Network, Stack], ready: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, stack = cable
    monkeypatch.setattr(http1, "SILENCE_S", SILENCE_S)
    stack.plane.delay_s = 6 * SILENCE_S
    assert stack.ask(ready.key).status == 200
    assert network.passed > 2, "it was asked whether it is there"
