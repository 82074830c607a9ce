"""Every message of the contract, spoiled, at the data plane's door: a 4xx Fault, nothing started, nothing written."""

import asyncio
import base64
import inspect
import json
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from tilth.contract import messages, sealing
from tilth.contract.messages import (
    EmbedReply,
    EmbedRequest,
    EventsQuery,
    Fault,
    Grant,
    JobSpec,
    JobState,
    JobStatus,
    LoadReply,
    LoadRequest,
    Message,
    PredictionUsage,
    PredictReply,
    PredictRequest,
    StopRequest,
)

from inference.door import AUDIENCE
from inference.exchange import Mailbox
from inference.ingress import MOST_BYTES, Ingress
from inference.replicas import Replica, Replicas

pytestmark = pytest.mark.slow

FUZZED = settings(
    derandomize=True, database=None, deadline=None, max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
ROUTES: dict[type[Message], tuple[str, str]] = {
    JobSpec: ("PUT", "/jobs/j/1"),
    EventsQuery: ("POST", "/jobs/j/1/events"),
    StopRequest: ("POST", "/jobs/j/1/stop"),
    PredictRequest: ("POST", "/predictions"),
    EmbedRequest: ("POST", "/embeddings"),
    LoadRequest: ("POST", "/deployments/load"),
}
"""Which address reads which message."""
INSIDE = {"Grant", "TrainingOptions", "ModelRef"}
"""Messages that travel in those."""
ANSWERS = {
    "TrainerEvent", "JobStatus", "EventsPage", "PredictReply", "Prediction", "PredictionUsage", "EmbedReply",
    "LoadReply", "Health", "Fault",
}  # fmt: skip
"""What the data plane says; how it is read is tested at the control plane."""


class Handle:
    """What Ray gives: ``remote`` of a method; it notes what was asked for and answers like the real one."""

    def __init__(self, answer: Any, *notes: list[Any]) -> None:
        self._answer, self._notes = answer, notes

    async def remote(self, *args: Any) -> Any:
        for note in self._notes:
            note.append(args)
        return self._answer


class Door:
    """An ingress over handles that only note; ``post`` is one request to it."""

    def __init__(self, place: Any, replicas: int = 1) -> None:
        self.place, self.asked = place, []  # type: ignore[var-annotated]
        self.heard: dict[str, list[Any]] = {f"host-{number}": [] for number in range(replicas)}
        state = JobStatus(job="j", attempt=1, state=JobState.RUNNING)
        names = ("start", "stop", "status", "free")
        pool = SimpleNamespace(**{name: Handle(1 if name == "free" else state, self.asked) for name in names})
        hosts = Replicas(Replica(name, self._host(heard)) for name, heard in self.heard.items())
        self._ingress = Ingress(place.key.public_key(), pool, {"minilm-l6": hosts}, hosts)

    def _host(self, heard: list[Any]) -> SimpleNamespace:
        reply = PredictReply(predictions=(), digest="d", generation=1, usage=PredictionUsage(rows=0, tokens=0))
        vectors = EmbedReply(vectors=(), width=1, digest="d", generation=1, usage=reply.usage)
        answers = {"predict": reply, "embed": vectors, "load": LoadReply(digest="d", generation=1)}
        noted = {name: Handle(answer, self.asked, heard).remote for name, answer in answers.items()}
        return SimpleNamespace(exchange=SimpleNamespace(remote=Mailbox(SimpleNamespace(**noted)).exchange))

    def post(self, method: str, path: str, body: bytes, token: str | list[str] = "") -> tuple[int, Any]:
        tokens = [token or self.token()] if isinstance(token, str) else token
        headers = [(b"authorization", b"Bearer " + each.encode()) for each in tokens]
        scope = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": b""}

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        answer = asyncio.run(self._ingress.answer(Request(scope, receive)))
        return answer.status_code, json.loads(bytes(answer.body))

    def token(self, life_s: int = 60, key: Ed25519PrivateKey | None = None, **claims: Any) -> str:
        moment = int(time.time())
        facts = {"aud": AUDIENCE, "iat": moment, "exp": moment + life_s, **claims}
        return jwt.encode(facts, key or self.place.key, algorithm="EdDSA")


@pytest.fixture
def door(place: Any) -> Door:
    (place.root / "own").mkdir()
    return Door(place)


def good(place: Any, shape: type[Message]) -> dict[str, Any]:
    """A message that is accepted."""
    read = place.grant("own/events/").model_dump()
    model = {"digest": "sha256:0", "folder": read, "vertical": "support_chat", "base_model": "minilm-l6"}
    spec = {
        "job": "j", "attempt": 1, "flow": "f", "vertical": "support_chat", "base_model": "minilm-l6",
        "rows": place.grant("rows.parquet").model_dump(), "output": place.grant("own/", "write").model_dump(),
        "max_device_ms": 1000, "options": {"seed": 1},
    }  # fmt: skip
    return {
        JobSpec: spec,
        EventsQuery: {"grant": read, "after": 0, "limit": 10},
        StopRequest: {"mode": "pause"},
        PredictRequest: {"flow": "f", "model": model, "inputs": [{"text": "x"}]},
        EmbedRequest: {"flow": "f", "base_model": "minilm-l6", "model": model, "texts": ["x"]},
        LoadRequest: {"model": model},
    }[shape]


def files(place: Any) -> list[Path]:
    return sorted(place.root.rglob("*"))


def test_every_message_of_the_contract_has_its_place_here() -> None:
    known = {
        name for name, found in inspect.getmembers(messages, inspect.isclass)
        if issubclass(found, Message) and found is not Message
    }  # fmt: skip
    assert known == {shape.__name__ for shape in ROUTES} | INSIDE | ANSWERS


@pytest.mark.parametrize("shape", ROUTES)
def test_a_good_message_is_accepted(door: Door, shape: type[Message]) -> None:
    status, _ = door.post(*ROUTES[shape], json.dumps(good(door.place, shape)).encode())
    assert status in (200, 202)
    assert len(door.asked) == 1


def test_a_model_is_loaded_where_it_will_answer(place: Any) -> None:
    (place.root / "own").mkdir()
    door = Door(place, replicas=3)
    for number in range(20):
        for shape in (LoadRequest, PredictRequest, EmbedRequest):
            message = good(place, shape)
            message["model"]["digest"] = f"sha256:{number}"
            assert door.post(*ROUTES[shape], json.dumps(message).encode())[0] == 200
    homes = [[message.model.digest for (message,) in heard] for heard in door.heard.values()]
    assert all(homes)
    assert Counter(digest for home in homes for digest in set(home)) == {f"sha256:{number}": 1 for number in range(20)}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("x" * 10_000)
    | st.integers(min_value=10**30, max_value=10**40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at] if at else []
    for key, inner in value.items() if isinstance(value, dict) else ():
        found += paths(inner, (*at, key))
    return found


def spoiled(value: dict[str, Any], at: tuple[Any, ...], how: str, by: Any) -> dict[str, Any]:
    """A copy with one place missing, changed, or with a key beside it that nobody knows."""
    copy = json.loads(json.dumps(value))
    inner = copy
    for step in at[:-1]:
        inner = inner[step]
    match how:
        case "missing":
            del inner[at[-1]]
        case "extra":
            inner["unknown"] = by
        case _:
            inner[at[-1]] = by
    return copy  # type: ignore[no-any-return]


@pytest.mark.parametrize("shape", ROUTES)
def test_no_spoiled_message_is_a_server_error_and_a_refused_one_starts_nothing(
    door: Door, shape: type[Message]
) -> None:
    whole, before = good(door.place, shape), files(door.place)

    @FUZZED
    @given(at=st.sampled_from(paths(whole)), how=st.sampled_from(["missing", "extra", "changed"]), by=VALUES)
    def knock(at: tuple[Any, ...], how: str, by: Any) -> None:
        door.asked.clear()
        status, body = door.post(*ROUTES[shape], json.dumps(spoiled(whole, at, how, by)).encode())
        assert status in (200, 202, 403, 422)
        if status >= 400:
            Fault.model_validate(body["error"])
            assert [args for args in door.asked if len(args) == 1] == [], "no message was handed on"
        assert how != "extra" or status == 422, "an unknown key is an error on either side"

    knock()
    assert files(door.place) == before


@pytest.mark.parametrize("shape", ROUTES)
@pytest.mark.parametrize(
    "body",
    [
        b"", b"x", b"[]", b"null", b"[" * 100_000, b'{"a":' * 50_000, b'{"mode": NaN}', b"\xff\xfe", b"{}{}", b'"x"',
        '{"mode": "pause"}'.encode("utf-16"), b'{"mode": "\\ud800"}', b'{"mode": "\\u0000"}', b"9" * 1_000_000,
    ],
    ids=range(14),
)  # fmt: skip
def test_what_is_no_message_is_a_422(door: Door, shape: type[Message], body: bytes) -> None:
    status, answer = door.post(*ROUTES[shape], body)
    assert (status, answer["error"]["code"]) == (422, "bad_message")
    assert len(answer["error"]["message"]) < 500


def test_a_body_without_end_is_a_413(door: Door) -> None:
    status, answer = door.post("POST", "/predictions", b" " * (MOST_BYTES + 1))
    assert (status, answer["error"]["code"]) == (413, "too_large")


def deep_header() -> str:
    head = base64.urlsafe_b64encode(b'{"alg":' + b"[" * 30_000).rstrip(b"=").decode()
    return f"{head}.e30.AAAA"


def test_no_token_but_a_fresh_one_of_ours_opens_the_door(door: Door) -> None:
    foreign = Ed25519PrivateKey.generate()
    none = jwt.encode({"aud": AUDIENCE, "iat": 1, "exp": 2**40}, "", algorithm="none")
    tokens: list[Any] = [
        door.token(key=foreign), door.token(life_s=-1), door.token(life_s=3600), door.token(aud="another"), none,
        "x", "a.b.c", deep_header(), "\xe9", ".".join("x" * 9), door.token() + "x", [door.token(), door.token()], [],
        door.token(iat="now"), jwt.encode({"aud": AUDIENCE}, door.place.key, algorithm="EdDSA"),
    ]  # fmt: skip
    for token in tokens:
        status, answer = door.post("GET", "/health", b"", token)
        assert (status, answer["error"]["code"] in ("no_token", "bad_token")) == (401, True), str(token)[:40]
    assert door.asked == []
    assert door.post("GET", "/health", b"")[0] == 200


@pytest.mark.parametrize(
    "path", ["/jobs/j/²", "/jobs/j/" + "9" * 5000, "/jobs/j/-1", "/jobs/j/1.0", "/jobs//", "/", "/jobs/j/1/x", "/%00"]
)
def test_an_address_that_is_none_is_a_404(door: Door, path: str) -> None:
    status, answer = door.post("GET", path, b"")
    assert (status, answer["error"]["code"]) == (404, "no_such_route")


def of(door: Door, **changed: Any) -> Grant:
    return door.place.grant("own/events/").model_copy(update=changed)  # type: ignore[no-any-return]


def test_a_grant_that_is_forged_old_or_for_something_else_reads_nothing(door: Door) -> None:
    (door.place.root / "other" / "events").mkdir(parents=True)
    (door.place.root / "other" / "events" / "1.json").write_text("[]")
    place, stranger = door.place, type(door.place)(door.place.root)
    root = f"file://{place.root}/"
    forged = [
        of(door, url=root + "other/events/"), of(door, url=root + "own/../other/events/"), of(door, signature=""),
        of(door, signature="zz"), of(door, signature="00" * 64), of(door, expires_at=2**40), of(door, url="/etc/"),
        of(door, url="http://169.254.169.254/"), of(door, url=root + "other/events/\0"),
        stranger.grant("own/events/"), place.grant("own/events/", life_s=-1), place.grant("own/", "write"),
    ]  # fmt: skip
    for grant in forged:
        query = EventsQuery(grant=grant).model_dump_json().encode()
        status, answer = door.post("POST", "/jobs/j/1/events", query)
        assert (status, answer["error"]["code"]) == (403, "grant_refused"), grant.url


def test_what_a_spool_holds_beside_events_is_no_server_error(door: Door) -> None:
    spool = door.place.root / "own" / "events"
    spool.mkdir()
    for name in ("notes.txt", "x.json", "-1.json", "²"):
        (spool / name).write_text("garbage")
    query = EventsQuery(grant=of(door)).model_dump_json().encode()
    assert door.post("POST", "/jobs/j/1/events", query)[0] == 200
    (spool / "1.json").write_bytes(sealing.seal(b'[{"kind": "conquered"}]', door.place.sealed_with))
    assert door.post("POST", "/jobs/j/1/events", query)[0] == 422
    (spool / "1.json").write_text("never sealed")
    assert door.post("POST", "/jobs/j/1/events", query)[0] == 422


def test_a_link_in_storage_leads_nowhere(door: Door) -> None:
    place = door.place
    (place.root / "secret.json").write_text('["of another"]')
    spool = place.root / "own" / "events"
    spool.mkdir()
    (spool / "1.json").symlink_to(place.root / "secret.json")
    status, answer = door.post("POST", "/jobs/j/1/events", EventsQuery(grant=of(door)).model_dump_json().encode())
    assert (status, answer["error"]["code"]) == (403, "grant_refused")
    assert "of another" not in json.dumps(answer)
