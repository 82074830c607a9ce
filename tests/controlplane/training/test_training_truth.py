"""Postgres is the only truth: stale writes, silence, late and wrong reports, a data plane that is away."""

from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.conf import settings
from tilth.contract.messages import REVOKED, EventKind, TrainerEvent
from tilth.core import clock, storage
from tilth.dataplane.fake_trainer import Script
from tilth.dataplane.port import DataPlaneDown
from tilth.training import services
from tilth.training.attempts import StaleAttempt, page_apply
from tilth.training.effects import BadReport
from tilth.training.endings import attempt_cancelled, attempt_lost, attempt_paused
from tilth.training.states import State


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence counts almost at once."""
    import dataclasses

    monkeypatch.setattr(settings, "ENV", dataclasses.replace(settings.ENV, lease_s=0.05))


def event(job: Any, attempt: int, seq: int, kind: EventKind = EventKind.MESSAGE, **data: Any) -> TrainerEvent:
    return TrainerEvent(
        job=job.hex, attempt=attempt, seq=seq, at_ms=clock.now_ms(), kind=kind, message="said", data=data
    )


def test_every_write_of_a_stale_attempt_is_refused(rig: Any, tenant: Any) -> None:
    rig.plane.script = lambda spec: Script(dies_after=2, step_s=0.001)
    job = rig.queued(tenant)
    while rig.job(tenant, job).attempt < 2:
        rig.turn()
    before = rig.story(tenant, job)
    with pytest.raises(StaleAttempt):
        page_apply(tenant=tenant.id, job=job, attempt=1, events=[event(job, 1, 99)])
    for end in (attempt_paused, attempt_cancelled):
        with pytest.raises(StaleAttempt):
            end(tenant=tenant.id, job=job, attempt=1)
    with pytest.raises(StaleAttempt):
        attempt_lost(tenant=tenant.id, job=job, attempt=1, why="it says so itself")
    assert rig.story(tenant, job)[: len(before)] == before


def test_a_page_that_comes_twice_changes_nothing(rig: Any, tenant: Any) -> None:
    rig.plane.script = lambda spec: Script(step_s=60)
    job = rig.queued(tenant)
    rig.turn()
    seq = rig.job(tenant, job).last_seq
    page = [event(job, 1, seq + 1), event(job, 1, seq + 2)]
    for _ in range(2):
        page_apply(tenant=tenant.id, job=job, attempt=1, events=page)
    assert rig.story(tenant, job).count("said") == 2
    assert rig.job(tenant, job).last_seq == seq + 2


def test_a_page_with_a_gap_or_of_another_attempt_is_refused_whole(rig: Any, tenant: Any) -> None:
    rig.plane.script = lambda spec: Script(step_s=60)
    job = rig.queued(tenant)
    rig.turn()
    seq = rig.job(tenant, job).last_seq
    for page in ([event(job, 1, seq + 2)], [event(job, 1, seq + 1), event(job, 1, seq + 3)], [event(job, 2, seq + 1)]):
        with pytest.raises(BadReport):
            page_apply(tenant=tenant.id, job=job, attempt=1, events=page)
    assert "said" not in rig.story(tenant, job)


def test_a_report_that_cannot_be_gives_the_attempt_up_and_the_job_goes_on(rig: Any, tenant: Any) -> None:
    rig.plane.script = lambda spec: Script(step_s=60) if spec.attempt == 1 else Script()
    job = rig.queued(tenant)
    rig.turn()
    trainer = rig.plane._attempts[job.hex, 1]
    trainer._emit(EventKind.HEARTBEAT, "", {"device_ms": "many"})
    rig.pull()
    assert any("report was refused" in message for message in rig.story(tenant, job))
    assert rig.job(tenant, job).state == State.QUEUED


def test_a_checkpoint_outside_the_attempts_own_prefix_is_refused(rig: Any, tenant: Any) -> None:
    rig.plane.script = lambda spec: Script(step_s=60)
    job = rig.queued(tenant)
    rig.turn()
    seq = rig.job(tenant, job).last_seq
    outside = event(job, 1, seq + 1, EventKind.CHECKPOINT, step=1, path="../../../../other/model")
    with pytest.raises(BadReport):
        page_apply(tenant=tenant.id, job=job, attempt=1, events=[outside])


@pytest.mark.slow
def test_a_silent_trainer_is_given_up_after_its_lease_and_its_late_words_are_refused(
    rig: Any, tenant: Any, short_lease: None
) -> None:
    rig.plane.script = lambda spec: Script(hangs_after=7) if spec.attempt == 1 else Script()
    job = rig.queued(tenant)
    while rig.job(tenant, job).state != State.SUCCEEDED:
        rig.turn()
    done = rig.job(tenant, job)
    assert done.attempt == 2
    assert any("gone silent" in message for message in rig.story(tenant, job))
    with pytest.raises(StaleAttempt):
        page_apply(tenant=tenant.id, job=job, attempt=1, events=[event(job, 1, 999)])
    attempts = f"tenants/{tenant.id.hex}/jobs/{job.hex}/attempts"
    assert [storage.exists(f"{attempts}/{number}/{REVOKED}") for number in (1, 2)] == [True, False]


def test_silence_counts_only_while_we_were_listening(rig: Any, tenant: Any) -> None:
    rig.plane.script = lambda spec: Script(hangs_after=7)
    job = rig.queued(tenant)
    rig.turn()
    later = clock.now() + timedelta(seconds=10 * settings.ENV.lease_s)
    with clock.frozen(later):
        rig.pull()
    assert rig.job(tenant, job).state == State.RUNNING


def test_late_events_are_waited_for(rig: Any, tenant: Any) -> None:
    rig.plane.script = lambda spec: Script(late_s=0.1)
    job = rig.queued(tenant)
    rig.dispatcher.step()
    for _ in range(500):
        rig.turn()
        if rig.job(tenant, job).state not in (State.LEASED, State.RUNNING):
            break
    assert rig.job(tenant, job).state == State.SUCCEEDED


@pytest.mark.slow
def test_a_data_plane_that_is_away_fails_no_job(rig: Any, tenant: Any) -> None:
    rig.plane.script = lambda spec: Script(step_s=0.01, steps=5)
    waiting, running = rig.queued(tenant), rig.queued(tenant)
    rig.turn()
    rig.plane.down = True
    for _ in range(3):
        with pytest.raises(DataPlaneDown):
            rig.turn()
    states = {rig.job(tenant, waiting).state, rig.job(tenant, running).state}
    assert states <= {State.QUEUED, State.LEASED, State.RUNNING}
    rig.plane.down = False
    while {rig.job(tenant, waiting).state, rig.job(tenant, running).state} != {State.SUCCEEDED}:
        rig.turn()
    assert [attempt for _, attempt in rig.plane.starts] == [1, 1]


def test_a_lease_that_could_not_be_told_is_told_later_under_the_same_number(
    rig: Any, tenant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = rig.queued(tenant)
    with monkeypatch.context() as cut:
        cut.setattr(rig.plane, "start", lambda spec: (_ for _ in ()).throw(DataPlaneDown("cut")))
        with pytest.raises(DataPlaneDown):
            rig.dispatcher.step()
    leased = rig.job(tenant, job)
    assert (leased.state, leased.attempt, leased.dispatched_at) == (State.LEASED, 1, None)
    rig.turn()
    assert rig.plane.starts == [(job.hex, 1)]
    assert rig.job(tenant, job).state == State.SUCCEEDED


def test_a_data_plane_that_forgot_everything_gets_the_job_again(rig: Any, tenant: Any) -> None:
    rig.plane.script = lambda spec: Script(step_s=60) if spec.attempt == 1 else Script()
    job = rig.queued(tenant)
    rig.turn()
    rig.plane.forget()
    rig.pull()
    rig.turn()
    assert (rig.job(tenant, job).state, rig.job(tenant, job).attempt) == (State.SUCCEEDED, 2)


def test_a_job_cancelled_before_its_trainer_answered_is_cancelled(
    rig: Any, tenant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = rig.queued(tenant)
    with monkeypatch.context() as cut:
        cut.setattr(rig.plane, "start", lambda spec: (_ for _ in ()).throw(DataPlaneDown("cut")))
        with pytest.raises(DataPlaneDown):
            rig.dispatcher.step()
    services.job_cancel(tenant=tenant.id, by=tenant.principal, job=job)
    rig.turn()
    assert rig.job(tenant, job).state == State.CANCELLED


@pytest.mark.slow
def test_the_database_itself_keeps_events_and_checkpoints_unchanged(
    rig: Any, tenant: Any, app_db: psycopg.Connection
) -> None:
    rig.queued(tenant)
    rig.turn()
    for table in ("training_event", "training_checkpoint"):
        for change in (f'UPDATE "{table}" SET data = NULL', f'DELETE FROM "{table}"'):
            with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedColumn)):
                app_db.execute(change)
