"""The data plane's HTTP client and its fake keep the same promises; grants and tokens are what they say."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tilth.contract.errors import GrantRefused
from tilth.contract.messages import (
    EmbedRequest,
    EventKind,
    EventsQuery,
    JobSpec,
    JobState,
    LoadRequest,
    ModelRef,
    PredictRequest,
)
from tilth.dataplane.fake import FakeDataPlane
from tilth.dataplane.fake_http import served
from tilth.dataplane.fake_trainer import Script
from tilth.dataplane.grants import Grants
from tilth.dataplane.http import HttpDataPlane
from tilth.dataplane.port import DataPlane, DataPlaneDown, DataPlaneRefused, NoTrainerFree
from tilth.dataplane.tokens import AUDIENCE, Tokens

from inference.storage import Storage

KEY = Ed25519PrivateKey.generate()


def sha256_of(path: str) -> bytes:
    """A key for what lies below the first folder of a path."""
    return sha256(path.split("/")[0].encode()).digest()


@pytest.fixture
def grants(tmp_path: Path) -> Grants:
    return Grants(KEY, f"file://{tmp_path}", keys=sha256_of)


@pytest.fixture
def fake() -> FakeDataPlane:
    return FakeDataPlane(KEY.public_key())


@pytest.fixture(params=["in this process", "over HTTP"])
def plane(request: pytest.FixtureRequest, fake: FakeDataPlane) -> Iterator[DataPlane]:
    """The same fake, called directly and through the real client."""
    if request.param == "in this process":
        yield fake
        return
    with (
        served(fake, KEY.public_key()) as url,
        closing(HttpDataPlane(url, Tokens(KEY).bearer, timeout_s=2)) as client,
    ):
        yield client


@pytest.fixture
def spec(grants: Grants) -> Callable[..., JobSpec]:
    def make(attempt: int = 1, job: str = "", **changes: object) -> JobSpec:
        job = job or uuid4().hex
        return JobSpec(
            job=job, attempt=attempt, flow="f", vertical="v", base_model=str(changes.pop("base_model", "minilm-l6")),
            rows=grants.read("rows.parquet"), output=grants.write(f"jobs/{job}/{attempt}/"), max_device_ms=60_000,
            **changes,  # type: ignore[arg-type]
        )  # fmt: skip

    return make


def query(grants: Grants, after: int = 0) -> EventsQuery:
    return EventsQuery(grant=grants.read("events/"), after=after)


def test_an_attempt_runs_once_however_often_it_is_started(
    plane: DataPlane, fake: FakeDataPlane, spec: Callable[..., JobSpec]
) -> None:
    asked = spec()
    assert {plane.start(asked).state, plane.start(asked).state} <= {JobState.RUNNING, JobState.FINISHED}
    assert fake.starts == [(asked.job, 1)]


def test_events_come_in_order_after_the_last_one_seen(
    plane: DataPlane, grants: Grants, spec: Callable[..., JobSpec]
) -> None:
    asked = spec()
    plane.start(asked)
    page = plane.events(asked.job, 1, query(grants))
    assert [event.seq for event in page.events] == list(range(1, len(page.events) + 1))
    kinds = [event.kind for event in page.events]
    assert (kinds[0], kinds[-2:]) == (EventKind.SPAN_OPENED, [EventKind.SUCCEEDED, EventKind.SPAN_CLOSED])
    assert plane.events(asked.job, 1, query(grants, after=3)).events[0].seq == 4
    assert page.status.state == JobState.FINISHED


def test_a_busy_data_plane_and_one_that_refuses_and_one_that_is_away_are_told_apart(
    plane: DataPlane, fake: FakeDataPlane, spec: Callable[..., JobSpec]
) -> None:
    fake.script = lambda spec: Script(step_s=60)
    plane.start(spec())
    with pytest.raises(NoTrainerFree):
        plane.start(spec())
    with pytest.raises(DataPlaneRefused) as refused:
        plane.start(spec(base_model="unheard-of"))
    assert refused.value.reason == "unknown_base_model"
    fake.down = True
    with pytest.raises(DataPlaneDown):
        plane.health()
    fake.down = False
    assert plane.health().trainers_free == 0


def test_rows_of_a_batch_are_answered_with_the_tokens_of_each_and_those_that_cannot_be_read_are_refused(
    plane: DataPlane, fake: FakeDataPlane, grants: Grants
) -> None:
    model = ModelRef(digest="sha256:a", folder=grants.read("m/"), vertical="support_chat", base_model="minilm-l6")
    asked = PredictRequest(flow="f", model=model, inputs=({"text": "a"}, {"text": "b"}))
    reply = plane.predict(asked)
    assert (len(reply.predictions), reply.digest, reply.tokens) == (2, "sha256:a", (7, 7))
    embedded = plane.embed(EmbedRequest(flow="f", base_model="minilm-l6", texts=("a",)))
    assert (len(embedded.vectors), embedded.tokens) == (1, (7,))
    fake.answers.refuses = lambda row: "the text is odd" if row == {"text": "b"} else ""
    with pytest.raises(DataPlaneRefused, match="the text is odd") as refused:
        plane.predict(asked)
    assert refused.value.reason == "refused"
    fake.down = True
    with pytest.raises(DataPlaneDown):
        plane.predict(asked)


def test_a_pause_leaves_a_checkpoint_from_which_the_next_attempt_goes_on(
    plane: DataPlane, fake: FakeDataPlane, grants: Grants, spec: Callable[..., JobSpec]
) -> None:
    fake.script = lambda spec: Script(steps=50, step_s=0.01)
    first = spec()
    plane.start(first)
    while len(plane.events(first.job, 1, query(grants)).events) < 6:
        time.sleep(0.01)
    plane.stop(first.job, 1, "pause")
    events = plane.events(first.job, 1, query(grants)).events
    paused = next(event for event in events if event.kind is EventKind.PAUSED)
    folder = next(event for event in reversed(events) if event.kind is EventKind.CHECKPOINT).data["path"]
    resume = grants.read(f"jobs/{first.job}/1/{folder}")
    plane.start(spec(attempt=2, job=first.job, resume=resume))
    started = next(e for e in plane.events(first.job, 2, query(grants)).events if e.kind is EventKind.STARTED)
    assert started.data["resumed_from_step"] == paused.data["step"]


def test_a_killed_trainer_is_lost_and_a_hung_one_still_believed_to_run(
    plane: DataPlane, fake: FakeDataPlane, spec: Callable[..., JobSpec]
) -> None:
    dead, hung = spec(), spec()
    fake.script = lambda spec: Script(dies_after=3)
    plane.start(dead)
    fake.script = lambda spec: Script(hangs_after=3)
    plane.start(hung)
    assert (plane.status(dead.job, 1).state, plane.status(hung.job, 1).state) == (JobState.LOST, JobState.RUNNING)
    assert plane.status(uuid4().hex, 1).state == JobState.UNKNOWN
    assert plane.stop(hung.job, 1, "cancel").state == JobState.RUNNING
    assert plane.stop(hung.job, 1, "kill").state == JobState.LOST


def test_a_model_is_loaded_by_its_digest(plane: DataPlane, fake: FakeDataPlane, grants: Grants) -> None:
    model = ModelRef(digest="sha256:1", folder=grants.read("model/"), vertical="v", base_model="minilm-l6")
    assert plane.load(LoadRequest(model=model)).digest == "sha256:1"
    assert fake.loaded == ["sha256:1"]


def test_a_forged_grant_is_refused(plane: DataPlane, spec: Callable[..., JobSpec], tmp_path: Path) -> None:
    forged = Grants(Ed25519PrivateKey.generate(), f"file://{tmp_path}", keys=sha256_of).write("elsewhere/")
    with pytest.raises(DataPlaneRefused):
        plane.start(spec().model_copy(update={"output": forged}))


def test_a_caller_without_a_token_is_not_let_in(fake: FakeDataPlane) -> None:
    with served(fake, KEY.public_key()) as url:
        for bearer in ("", Tokens(Ed25519PrivateKey.generate()).bearer()):
            client = HttpDataPlane(url, partial(str, bearer))
            with closing(client), pytest.raises(DataPlaneDown, match="does not let us in"):
                client.health()


def test_a_token_lives_at_most_a_minute_and_is_renewed_in_time() -> None:
    clock = [1000.0]
    tokens = Tokens(KEY, now=lambda: clock[0])
    first = tokens.bearer()
    claims = jwt.decode(first, KEY.public_key(), algorithms=["EdDSA"], audience=AUDIENCE, options={"verify_exp": False})
    assert claims["exp"] - claims["iat"] <= 60
    clock[0] += 29
    assert tokens.bearer() == first
    clock[0] += 2
    assert tokens.bearer() != first


def test_the_data_planes_storage_honours_our_grants_and_nobody_elses(grants: Grants, tmp_path: Path) -> None:
    storage = Storage(KEY.public_key())
    storage.write(grants.write("jobs/1/"), "a.txt", b"x")
    assert storage.read(grants.read("jobs/1/"), "a.txt") == b"x"
    with pytest.raises(GrantRefused):
        Storage(Ed25519PrivateKey.generate().public_key()).read(grants.read("jobs/1/a.txt"))
    with pytest.raises(GrantRefused):
        storage.read(Grants(KEY, f"file://{tmp_path}", keys=sha256_of, now=lambda: 0).read("jobs/1/a.txt"))
