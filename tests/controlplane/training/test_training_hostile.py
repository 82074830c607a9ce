"""A data plane that lies or babbles: the attempt is given up with a clear word, the bill is right, the puller lives."""

import json
import math
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from tilth.contract.digest import MANIFEST, folder_digest
from tilth.contract.messages import EventKind, EventsPage, EventsQuery, TrainerEvent
from tilth.core.storage import put_stream
from tilth.dataplane.fake_trainer import Script
from tilth.dataplane.port import DataPlaneRefused
from tilth.registry.folders import FolderRefused, verify_folder
from tilth.training.puller import PAGE
from tilth.training.states import State

pytestmark = pytest.mark.slow

DAY_MS = 24 * 3600 * 1000
Lie = Callable[[TrainerEvent], dict[str, Any] | None]


def told(kind: EventKind, *, ahead_ms: int = 0, **changed: Any) -> Lie:
    """What events of a kind say instead of the truth; ``data`` is laid over their own."""

    def lie(event: TrainerEvent) -> dict[str, Any] | None:
        if event.kind is not kind:
            return None
        return {"at_ms": event.at_ms + ahead_ms, **changed, "data": {**event.data, **changed.get("data", {})}}

    return lie


def data(kind: EventKind, **facts: Any) -> Lie:
    return told(kind, data=facts)


HEARTBEAT, METRICS, SUCCEEDED = EventKind.HEARTBEAT, EventKind.METRICS, EventKind.SUCCEEDED
CHECKPOINT, CLOSED, OPENED = EventKind.CHECKPOINT, EventKind.SPAN_CLOSED, EventKind.SPAN_OPENED
LIES: dict[str, Lie] = {
    "negative device time": data(HEARTBEAT, device_ms=-1),
    "negative device time at the end": data(CLOSED, device_ms=-10_000),
    "device time without end": data(HEARTBEAT, device_ms=10**30),
    "more device time than has passed": data(HEARTBEAT, device_ms=DAY_MS),
    "device time that is no number": data(HEARTBEAT, device_ms="long"),
    "device time that is a list": data(CLOSED, device_ms=[1]),
    "a share of nothing": data(OPENED, share_millis=0),
    "a share of everything and more": data(OPENED, share_millis=10**12),
    "a device that is a NUL": data(OPENED, device="\0"),
    "a device with an endless name": data(OPENED, device="x" * 100_000),
    "a time to come": told(METRICS, ahead_ms=DAY_MS),
    "a device taken in the future": told(OPENED, ahead_ms=60_000),
    "no number for a metric": data(METRICS, loss=math.nan),
    "an endless metric": data(METRICS, loss=math.inf),
    "progress that is no number": data(METRICS, progress=math.nan),
    "progress beyond the end": data(METRICS, progress=1e300),
    "an estimate that is a word": data(METRICS, eta_s="soon"),
    "an estimate without end": data(METRICS, eta_s=1e300),
    "a NUL in a message": told(METRICS, message="a\0b"),
    "a NUL in data": data(METRICS, note="a\0b"),
    "half a surrogate pair": told(METRICS, message="\ud800"),
    "a checkpoint elsewhere": data(CHECKPOINT, path="../../other/"),
    "a checkpoint far away": data(CHECKPOINT, path="/etc/"),
    "a checkpoint nowhere": data(CHECKPOINT, path=""),
    "a step beyond counting": data(CHECKPOINT, step=10**30),
    "a step before the first": data(CHECKPOINT, step=-1),
    "an endless digest": data(CHECKPOINT, digest="x" * 10_000),
    "metrics that are a list": data(CHECKPOINT, metrics=[1, 2]),
    "another job's event": told(METRICS, job="0" * 32),
    "another attempt's event": told(METRICS, attempt=7),
    "a gap": told(METRICS, seq=10**6),
    "a step backwards": told(METRICS, seq=1),
    "a seq beyond counting": told(METRICS, seq=10**30),
    "a model elsewhere": data(SUCCEEDED, path="../../../"),
    "a model nowhere": data(SUCCEEDED, path="nothing/"),
    "another digest": data(SUCCEEDED, digest="sha256:" + "0" * 64),
    "a digest that is none": data(SUCCEEDED, digest=None),
    "tokens that are a word": data(SUCCEEDED, trained_tokens="many"),
    "tokens beyond counting": data(SUCCEEDED, trained_tokens=10**30),
    "figures that are a list": data(SUCCEEDED, metrics=[[1, 2, 3]]),
    "a report that is a word": data(SUCCEEDED, report="good"),
}


class Liar:
    """The fake data plane, whose first attempt lies."""

    def __init__(self, plane: Any, lie: Lie) -> None:
        self._plane, self._lie = plane, lie

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plane, name)

    def events(self, job: str, attempt: int, query: EventsQuery) -> EventsPage:
        page: EventsPage = self._plane.events(job, attempt, query)
        return page if attempt > 1 else page.model_copy(update={"events": self._spoiled(page.events)})

    def _spoiled(self, events: tuple[TrainerEvent, ...]) -> tuple[TrainerEvent, ...]:
        """Not checked on its way here, as if the contract had missed it."""
        return tuple(event.model_copy(update=self._lie(event) or {}) for event in events)


def wrong_sums(db: psycopg.Connection, tenant: Any) -> list[Any]:
    """What may never be: negative or double device time, a hold that an ended job keeps, a ledger that is not zero."""
    found = db.execute(
        """SELECT 'negative' FROM usage_devicespan WHERE tenant_id = %(t)s AND (device_ms < 0 OR ends_at < opened_at)
           UNION ALL SELECT 'uneven' FROM usage_usageevent WHERE tenant_id = %(t)s AND quantity < 0
           UNION ALL SELECT 'job' FROM training_job WHERE tenant_id = %(t)s AND (earlier_ms < 0 OR attempt_ms < 0)
           UNION ALL SELECT 'twice' FROM usage_usageevent WHERE tenant_id = %(t)s
               GROUP BY source, event_id HAVING count(*) > 1
           UNION ALL SELECT 'ahead' FROM usage_devicespan
               WHERE tenant_id = %(t)s AND ends_at > now() + interval '5 seconds'""",
        {"t": tenant.id},
    )
    return found.fetchall()


@pytest.mark.parametrize("what", LIES)
def test_an_attempt_that_lies_is_given_up_and_the_next_one_ends_well(
    rig: Any, tenant: Any, sums_db: psycopg.Connection, what: str
) -> None:
    rig.reach(Liar(rig.plane, LIES[what]))
    job = rig.queued(tenant)
    rig.turn()
    first = rig.job(tenant, job)
    assert (first.state, first.attempt) == (State.QUEUED, 1), rig.story(tenant, job)
    assert any("was given up" in message for message in rig.story(tenant, job))
    rig.turn()
    assert rig.job(tenant, job).state == State.SUCCEEDED
    assert wrong_sums(sums_db, tenant) == []
    shown = tenant.client.get(f"/v1/fine_tuning/jobs/ftjob-{job.hex}/checkpoints")
    assert (shown.status_code, tenant.client.get(f"/v1/fine_tuning/jobs/ftjob-{job.hex}").status_code) == (200, 200)


def test_a_job_whose_every_attempt_lies_fails_with_a_word(rig: Any, tenant: Any, sums_db: psycopg.Connection) -> None:
    liar = Liar(rig.plane, data(HEARTBEAT, device_ms=-1))
    liar.events = lambda job, attempt, query: rig.plane.events(job, attempt, query).model_copy(  # type: ignore[method-assign]
        update={"events": liar._spoiled(rig.plane.events(job, attempt, query).events)}
    )
    rig.reach(liar)
    job = rig.queued(tenant)
    for _ in range(10):
        rig.turn()
    failed = rig.job(tenant, job)
    assert (failed.state, failed.error["code"]) == (State.FAILED, "attempts_exhausted")
    assert "device_ms is -1" in failed.error["message"]
    assert wrong_sums(sums_db, tenant) == []


def test_more_events_than_were_asked_for_are_refused_and_not_stored(
    rig: Any, tenant: Any, monkeypatch: pytest.MonkeyPatch, sums_db: psycopg.Connection
) -> None:
    flood = 1_000_000

    def events(job: str, attempt: int, query: EventsQuery) -> EventsPage:
        page = rig.plane.events(job, attempt, query)
        return page.model_copy(update={"events": page.events[:1] * flood}) if attempt == 1 else page  # type: ignore[no-any-return]

    liar = Liar(rig.plane, lambda event: None)
    monkeypatch.setattr(liar, "events", events, raising=False)
    rig.reach(liar)
    job = rig.queued(tenant)
    rig.turn()
    count = sums_db.execute("SELECT count(*) FROM training_event WHERE tenant_id = %s", [tenant.id]).fetchone()
    assert count is not None
    assert count[0] < 20
    assert any(f"{flood} events came where at most {PAGE}" in said for said in rig.story(tenant, job))


def test_an_attempt_that_talks_without_end_does_not_keep_its_thread(
    rig: Any, tenant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def events(job: str, attempt: int, query: EventsQuery) -> EventsPage:
        asked.append(query.after)
        last = query.after + PAGE + 1
        moment = int(time.time() * 1000)
        more = tuple(
            TrainerEvent(job=job, attempt=attempt, seq=seq, at_ms=moment, kind=EventKind.MESSAGE)
            for seq in range(query.after + 1, last)
        )
        return EventsPage(events=more, status=rig.plane.status(job, attempt))

    rig.plane.script = lambda spec: Script(step_s=60)
    liar = Liar(rig.plane, lambda event: None)
    monkeypatch.setattr(liar, "events", events, raising=False)
    monkeypatch.setattr("tilth.training.puller.PAGES", 3)
    rig.reach(liar)
    job = rig.queued(tenant)
    rig.turn()
    assert asked == [0, PAGE, 2 * PAGE]
    assert rig.job(tenant, job).last_seq == 3 * PAGE


@pytest.mark.parametrize("call", ["events", "stop"])
def test_a_data_plane_that_refuses_to_read_a_report_ends_the_attempt_and_not_the_puller(
    rig: Any, tenant: Any, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refuse(*_: Any) -> Any:
        raise DataPlaneRefused("events.3.kind: Input should be …", code="bad_message")

    rig.plane.script = lambda spec: Script(step_s=60)
    job = rig.queued(tenant)
    rig.turn()
    liar = Liar(rig.plane, lambda event: None)
    for name in {call, "events"}:
        monkeypatch.setattr(liar, name, refuse, raising=False)
    rig.reach(liar)
    rig.pull()
    assert rig.job(tenant, job).state == State.QUEUED
    assert any("Input should be" in said for said in rig.story(tenant, job))


def manifest(files: dict[str, str], **more: Any) -> bytes:
    return json.dumps({"files": files, "digest": folder_digest(files), "format": 1, **more}).encode()


BAD_MANIFESTS: dict[str, bytes] = {
    "no JSON": b"pickle",
    "a list": b"[]",
    "nested without end": b"[" * 200_000,
    "no files": b"{}",
    "a way out": manifest({"../../x": "0"}),
    "a folder": manifest({"a/b": "0"}),
    "a way back": manifest({"..": "0"}),
    "itself": manifest({".": "0"}),
    "no name": manifest({"": "0"}),
    "a NUL": manifest({"a\0b": "0"}),
    "a backslash": manifest({"..\\x": "0"}),
    "what is not there": manifest({"missing.json": "0"}),
    "over 16 MiB": b" " * ((16 << 20) + 1),
}


@pytest.mark.parametrize("what", BAD_MANIFESTS)
def test_a_manifest_that_is_none_is_refused(tenant: Any, artifacts: Any, what: str) -> None:
    prefix = f"tenants/{tenant.id.hex}/bad/model/"
    put_stream(prefix + MANIFEST, [BAD_MANIFESTS[what]])
    with pytest.raises(FolderRefused):
        verify_folder(prefix, "sha256:0")


@pytest.mark.parametrize("link", ["file", "folder"])
def test_a_link_in_a_models_folder_is_refused(tenant: Any, other_tenant: Any, artifacts: Any, link: str) -> None:
    theirs = f"tenants/{other_tenant.id.hex}/model/"
    digest_of = put_stream(theirs + "features.json", [b"{}"]).sha256
    files = {"features.json": digest_of}
    put_stream(theirs + MANIFEST, [manifest(files)])
    prefix = f"tenants/{tenant.id.hex}/linked/model/"
    if link == "folder":
        (artifacts / prefix).parent.mkdir(parents=True)
        (artifacts / prefix.rstrip("/")).symlink_to(artifacts / theirs)
    else:
        put_stream(prefix + MANIFEST, [manifest(files)])
        (artifacts / prefix / "features.json").symlink_to(artifacts / theirs / "features.json")
    with pytest.raises(FolderRefused, match="link"):
        verify_folder(prefix, folder_digest(files))


def test_a_model_whose_bytes_were_changed_is_refused(tenant: Any, artifacts: Any) -> None:
    prefix = f"tenants/{tenant.id.hex}/changed/model/"
    digest = put_stream(prefix + "head.safetensors", [b"weights"]).sha256
    put_stream(prefix + MANIFEST, [manifest({"head.safetensors": digest})])
    assert verify_folder(prefix, folder_digest({"head.safetensors": digest})).digest
    put_stream(prefix + "head.safetensors", [b"Weights"])
    with pytest.raises(FolderRefused, match="other bytes"):
        verify_folder(prefix, folder_digest({"head.safetensors": digest}))
