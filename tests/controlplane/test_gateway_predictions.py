"""The gateway end to end: real uvicorn, real PostgreSQL, the data plane faked; every sum is checked in SQL."""

import json
import logging
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import psycopg
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from django.conf import settings
from tilth.core.clock import now
from tilth.dataplane.fake_predictions import TOKENS_PER_ROW, FakePredictions, running
from tilth.tenants import services as tenants
from tilth.tenants.keys import new_key
from tilth.usage import services as usage
from tilth.usage.fold import fold_once
from tilth.usage.models import Price

from tests.controlplane.gateway_rig import (
    DIGEST,
    Served,
    Stack,
    deploy,
    events,
    eventually,
    held,
    restart_by_kill,
    send,
)


@pytest.fixture(scope="module")
def stack(database: Any) -> Iterator[Stack]:
    Price.objects.create(unit="prediction.tokens", title="Tokens read", micro_usd=20, per_quantity=1000)
    public = load_pem_public_key((Path(settings.ENV.signing_key).parent / "verify.pem").read_bytes())
    plane = FakePredictions(public)  # type: ignore[arg-type]
    with running(plane) as plane_url, running(Served(settings.ENV.database_url, plane_url)) as url:
        yield Stack(url, plane, database)


@pytest.fixture
def plane(stack: Stack) -> Iterator[FakePredictions]:
    yield stack.plane
    stack.plane.delay_s, stack.plane.digest, stack.plane.fault = 0.0, None, None


@pytest.fixture
def ready(tenant: Any, sums_db: psycopg.Connection) -> Any:
    """A tenant with a model that answers."""
    deploy(sums_db, tenant)
    return tenant


def test_a_prediction_is_answered_metered_and_billed(stack: Stack, ready: Any, sums_db: Any) -> None:
    answer = stack.ask(ready.key, rows=2)
    assert (answer.status, answer.body["object"], len(answer.body["data"])) == (200, "list", 2)
    assert (answer.body["model"], answer.body["digest"]) == ("ft:test", DIGEST)
    assert answer.body["usage"] == {"rows": 2, "tokens": 2 * TOKENS_PER_ROW}
    assert answer.body["data"][0]["output"] == "yes"
    request = answer.headers["x-request-id"].removeprefix("req_")
    assert events(sums_db, ready) == [(request, 2 * TOKENS_PER_ROW)]
    fold_once()
    assert held(sums_db, ready) == []
    (line,) = ready.client.get("/api/usage").json()["data"]
    assert (line["subject"], line["quantity"]) == ("ft:test", 2 * TOKENS_PER_ROW)


@pytest.mark.slow
def test_a_key_with_a_wrong_checksum_costs_no_query(ready: Any, database: Any) -> None:
    """The gateway's database is away: only what makes no query can answer 401."""
    nowhere = "postgresql://tilth_app:x@127.0.0.1:1/nowhere"
    wrong = ready.key[:-1] + ("a" if ready.key[-1] != "a" else "b")
    with running(Served(nowhere, "http://127.0.0.1:1")) as url:
        lonely = Stack(url, FakePredictions(), None)
        assert [lonely.ask(key).status for key in (wrong, "sk-other", "", new_key().secret)] == [401, 401, 401, 503]


@pytest.mark.slow
def test_a_revoked_key_is_refused_within_five_seconds_under_load(stack: Stack, ready: Any) -> None:
    key, text = tenants.key_create(tenant=ready.id, by=ready.principal, name="short lived")
    assert stack.ask(text.secret).status == 200
    tenants.key_revoke(tenant=ready.id, by=ready.principal, key=key.id)
    revoked = time.monotonic()
    assert eventually(lambda: stack.ask(text.secret).status == 401)
    assert time.monotonic() - revoked < 5


def test_a_key_without_the_scope_or_unknown_or_expired_is_refused(stack: Stack, ready: Any) -> None:
    from tilth.tenants.scopes import Scope

    _, reader = tenants.key_create(
        tenant=ready.id, by=ready.principal, name="reads", scopes=frozenset({Scope.USAGE_READ})
    )
    _, late = tenants.key_create(
        tenant=ready.id, by=ready.principal, name="late", expires_at=now() - timedelta(seconds=1)
    )
    answers = [stack.ask(secret) for secret in (reader.secret, late.secret, new_key().secret)]
    assert [(a.status, a.code) for a in answers] == [
        (403, "insufficient_permissions"),
        (401, "invalid_api_key"),
        (401, "invalid_api_key"),
    ]
    assert all(secret.secret not in json.dumps(a.body) for a in answers for secret in (reader, late))


def test_another_tenants_model_is_as_unknown_as_nobodys(stack: Stack, ready: Any, other_tenant: Any) -> None:
    theirs = stack.ask(other_tenant.key, "ft:test")
    nobodys = stack.ask(other_tenant.key, "ft:none")
    assert theirs.status == nobodys.status == 404
    assert json.dumps(theirs.body).replace("ft:test", "ft:none") == json.dumps(nobodys.body)
    assert theirs.body["error"] == {
        "message": "No such model: ft:test",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"[]", None),
        (b'{"model": "ft:test"}', "inputs"),
        (b'{"model": "ft:test", "inputs": []}', "inputs"),
        (b'{"model": "ft:test", "inputs": ["text"]}', "inputs.0"),
        (b'{"model": "ft:test", "inputs": [{}], "stream": true}', "stream"),
    ],
)
def test_a_bad_request_names_what_is_wrong(stack: Stack, ready: Any, body: bytes, param: str | None) -> None:
    answer = stack.ask(ready.key, body=body)
    assert (answer.status, answer.body["error"]["param"]) == (400, param)


def test_a_body_over_two_mebibytes_is_refused(stack: Stack, ready: Any) -> None:
    answer = stack.ask(ready.key, body=b" " * (2 * 1024 * 1024 + 1))
    assert (answer.status, answer.code) == (400, "body_too_large")


def test_an_exhausted_budget_is_402_and_nothing_is_forwarded(
    stack: Stack, ready: Any, plane: FakePredictions, sums_db: Any
) -> None:
    usage.budget_change(tenant=ready.id, by=ready.principal, limit_micro_usd=0)
    before = plane.asked
    answer = stack.ask(ready.key)
    assert (answer.status, answer.code) == (402, "budget_exceeded")
    assert answer.body["error"]["limit_source"] == "monthly_budget"
    assert answer.headers["x-should-retry"] == "false"
    assert (plane.asked, events(sums_db, ready), held(sums_db, ready)) == (before, [], [])


def test_a_keys_cap_binds_that_key_alone(stack: Stack, ready: Any, sums_db: Any) -> None:
    _, capped = tenants.key_create(tenant=ready.id, by=ready.principal, name="capped", monthly_cap_micro_usd=3)
    assert stack.ask(capped.secret).status == 200
    fold_once()
    answer = stack.ask(capped.secret, text="x" * 200)
    assert (answer.status, answer.body["error"]["limit_source"]) == (402, "key_cap")
    assert stack.ask(ready.key, text="x" * 200).status == 200
    fold_once()
    assert held(sums_db, ready) == []


@pytest.mark.slow
def test_two_hundred_at_once_never_overshoot_the_budget(stack: Stack, ready: Any, sums_db: Any) -> None:
    """Each holds 2 micro-USD and costs 7 tokens at 0.02: exactly the holds decide how many run at once."""
    usage.budget_change(tenant=ready.id, by=ready.principal, limit_micro_usd=20)
    stack.plane.delay_s = 0.5
    try:
        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(lambda _: stack.ask(ready.key).status, range(200)))
    finally:
        stack.plane.delay_s = 0.0
    assert set(answers) == {200, 402}
    fold_once()
    limit, spent, reserved = sums_db.execute(
        "SELECT limit_micro_usd, spent_micro_usd, held_micro_usd FROM usage_budget WHERE tenant_id = %s", [ready.id]
    ).fetchone()
    assert (spent <= limit, reserved) == (True, 0)
    assert len(events(sums_db, ready)) == answers.count(200)


def test_the_wrong_models_answer_is_never_shown_or_billed(
    stack: Stack, ready: Any, plane: FakePredictions, sums_db: Any, caplog: pytest.LogCaptureFixture
) -> None:
    plane.digest = "sha256:" + "cd" * 32
    with caplog.at_level(logging.CRITICAL):
        answer = stack.ask(ready.key)
    assert (answer.status, answer.code) == (503, "digest_mismatch")
    assert "data" not in answer.body
    assert [record.levelname for record in caplog.records if "ALARM" in record.message] == ["CRITICAL"]
    assert events(sums_db, ready) == []
    assert eventually(lambda: held(sums_db, ready) == [])


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ((400, "unknown_role", "the row 0 has no text"), (400, "unknown_role")),
        ((422, "too_long", "too long"), (400, "too_long")),
        ((401, "unauthenticated", "token"), (503, "data_plane_down")),
        ((429, "busy", "full"), (503, "data_plane_down")),
        ((500, "internal", "bug"), (503, "data_plane_down")),
        ((503, "loading", "not yet"), (503, "data_plane_down")),
    ],
)
def test_faults_of_the_data_plane_bill_nothing(
    stack: Stack, ready: Any, plane: FakePredictions, sums_db: Any, fault: Any, expected: tuple[int, str]
) -> None:
    plane.fault = fault
    answer = stack.ask(ready.key)
    assert (answer.status, answer.code) == expected
    assert ("Retry-After" in answer.headers or "retry-after" in answer.headers) == (expected[0] == 503)
    assert events(sums_db, ready) == []
    assert eventually(lambda: held(sums_db, ready) == [])


def test_a_data_plane_that_is_away_is_503_and_the_hold_comes_back(ready: Any, stack: Stack, sums_db: Any) -> None:
    with running(Served(settings.ENV.database_url, "http://127.0.0.1:1")) as url:
        answer = Stack(url, stack.plane, None).ask(ready.key)
    assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "data_plane_down", "1")
    assert held(sums_db, ready) == []


def test_a_client_that_leaves_is_settled_all_the_same(
    stack: Stack, ready: Any, plane: FakePredictions, sums_db: Any
) -> None:
    plane.delay_s = 0.3
    leave_early(stack, ready.key)
    assert eventually(lambda: events(sums_db, ready) != [])
    fold_once()
    assert ([quantity for _, quantity in events(sums_db, ready)], held(sums_db, ready)) == ([TOKENS_PER_ROW], [])


def leave_early(stack: Stack, key: str) -> None:
    body = json.dumps({"model": "ft:test", "inputs": [{"text": "hello"}]}).encode()
    head = f"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n"
    place = urlsplit(stack.url)
    asked = stack.plane.asked
    with socket.create_connection((place.hostname or "", place.port or 0)) as client:
        client.sendall(head.encode() + b"\r\n" + body)
        assert eventually(lambda: stack.plane.asked > asked)


@pytest.mark.slow
def test_a_retry_gets_the_first_ones_answer_and_is_billed_nothing(
    stack: Stack, ready: Any, plane: FakePredictions, sums_db: Any
) -> None:
    plane.delay_s = 0.3
    leave_early(stack, ready.key)
    answers = [stack.ask(ready.key, retry=count) for count in (1, 2)]
    assert [answer.status for answer in answers] == [200, 200]
    assert len(events(sums_db, ready)) == 1
    assert stack.ask(ready.key).status == 200
    assert len(events(sums_db, ready)) == 2, "an equal request that is no retry is a request of its own"


@pytest.mark.slow
def test_the_unmodified_sdk_retries_and_is_billed_once(
    stack: Stack, ready: Any, plane: FakePredictions, sums_db: Any
) -> None:
    plane.delay_s = 0.7
    client = openai.OpenAI(api_key=ready.key, base_url=f"{stack.url}/v1", timeout=0.5, max_retries=3)
    body = {"model": "ft:test", "inputs": [{"text": "hello"}]}
    answer = client.post("/predictions", body=body, cast_to=dict[str, Any])
    assert answer["usage"] == {"rows": 1, "tokens": TOKENS_PER_ROW}
    assert len(events(sums_db, ready)) == 1
    client.close()


def test_every_answer_has_a_request_id(stack: Stack, ready: Any) -> None:
    answers = [stack.ask(ready.key), stack.ask("nonsense"), send(stack.url, "GET", "/healthz", "", b"")]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert [answer.status for answer in answers] == [200, 401, 200]
    assert (len(set(ids)), all(one.startswith("req_") for one in ids)) == (3, True)


@pytest.mark.slow
def test_health_is_503_while_the_database_is_away(database: Any) -> None:
    with running(Served("postgresql://tilth_app:x@127.0.0.1:1/nowhere", "http://127.0.0.1:1")) as url:
        answer = send(url, "GET", "/healthz", "", b"")
    assert (answer.status, answer.code) == (503, "unavailable")


@pytest.mark.slow
def test_what_was_answered_is_stored_when_connections_are_killed(stack: Stack, ready: Any, sums_db: Any) -> None:
    """Sum of what was answered = sum of what is stored, while every connection of the gateway dies again and again."""
    patience = time.monotonic() + 60
    answered: list[int] = []
    killed = 0

    def enough() -> bool:
        return (len(answered) > 50 and killed > 10) or time.monotonic() > patience

    def ask_on(place: int) -> None:
        while not enough():
            answer = stack.ask(ready.key, rows=1 + place % 3)
            if answer.status == 200:
                answered.append(answer.body["usage"]["tokens"])
            else:
                assert answer.status == 503

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask_on, place) for place in range(8)]
        while not enough():
            time.sleep(0.15)
            killed += len(
                sums_db.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tilth gateway'"
                ).fetchall()
            )
        for one in asking:
            one.result()
    assert killed > 10
    assert len(answered) > 50
    assert sum(answered) == sum(quantity for _, quantity in events(sums_db, ready))
    sums_db.execute("UPDATE usage_hold SET expires_at = now() - interval '1 s' WHERE tenant_id = %s", [ready.id])
    from tilth.usage.fold import sweep_holds

    fold_once()
    sweep_holds()
    assert held(sums_db, ready) == [], "orphan holds are swept"
    folded = sums_db.execute("SELECT sum(quantity) FROM usage_tally WHERE tenant_id = %s", [ready.id]).fetchone()
    assert folded == (sum(answered),)


@pytest.mark.slow
def test_connections_that_were_closed_while_idle_cost_no_request(stack: Stack, ready: Any, sums_db: Any) -> None:
    assert stack.ask(ready.key).status == 200
    sums_db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tilth gateway'")
    time.sleep(0.2)
    assert stack.ask(ready.key).status == 200


@pytest.mark.slow
def test_a_killed_database_loses_no_answered_prediction_and_no_hold_under_way(
    stack: Stack, ready: Any, plane: FakePredictions, database: Any
) -> None:
    """Last in this file: it restarts the server that all tests share."""
    assert eventually(lambda: stack.ask(ready.key).status == 200)
    answered = [stack.ask(ready.key, rows=3) for _ in range(20)]
    plane.delay_s = 4
    with ThreadPoolExecutor(1) as pool:
        asked = plane.asked
        under_way = pool.submit(stack.ask, ready.key, text="held while the database dies")
        assert eventually(lambda: plane.asked > asked)
        restart_by_kill(database)
        plane.delay_s = 0
        assert eventually(lambda: stack.ask(ready.key).status == 200), "the link is opened anew"
        with psycopg.connect(database.url("postgres"), autocommit=True) as db:
            fold_once()
            holds = db.execute("SELECT count(*) FROM usage_hold WHERE tenant_id = %s", [ready.id]).fetchone()
            assert holds == (1,), "that of the request under way"
            assert [balance for balance in held(db, ready) if balance[0] != balance[1]] == []
            answered.append(under_way.result())
            assert [answer.status for answer in answered] == [200] * 21
            stored = {event for event, _ in events(db, ready)}
            assert {answer.headers["x-request-id"].removeprefix("req_") for answer in answered} <= stored
            assert eventually(lambda: fold_once() >= 0 and held(db, ready) == [])
