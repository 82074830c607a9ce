"""Jobs from created to a deployed model, and every other way in which they end."""

import asyncio
import csv
import io
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import psycopg
import pytest
from django.conf import settings
from tilth.catalog import selectors as catalog
from tilth.contract import registry
from tilth.contract.digest import MANIFEST
from tilth.contract.learning import Loss, Method, Optimiser, Targets
from tilth.contract.messages import EventKind, JobSpec, TrainingOptions
from tilth.contract.vertical import BaseModelOffer
from tilth.core import storage
from tilth.core.clock import frozen, now
from tilth.core.errors import Invalid, NotFound
from tilth.core.ids import parse
from tilth.core.scope import tenant_scope
from tilth.dataplane.fake import FakeDataPlane
from tilth.dataplane.fake_trainer import Script
from tilth.dataplane.keys import signing_key
from tilth.datasets.selectors import file_get
from tilth.registry.selectors import model_get
from tilth.serving.selectors import served_model
from tilth.training import services
from tilth.training.models import Event, Job
from tilth.training.orders import JobIn, order_of
from tilth.training.selectors import future_model_name, job_get
from tilth.training.shapes import job_shape
from tilth.training.states import MAX_LOSSES, State
from tilth.training.tasks import remove_checkpoints, renew_holds, revive_tasks
from tilth.usage.fold import tenant_fold, tenant_sweep


def scalar(db: psycopg.Connection, sql: str, *values: Any) -> Any:
    row = db.execute(sql, values).fetchone()
    assert row is not None
    return row[0]


def spans(db: psycopg.Connection, job: UUID) -> list[tuple[int, int]]:
    rows = db.execute("SELECT attempt, device_ms FROM usage_devicespan WHERE job = %s ORDER BY attempt", [job])
    return [(attempt, device_ms) for attempt, device_ms in rows]


def assert_settled(db: psycopg.Connection, job: UUID) -> None:
    """One usage event for each span, nothing held for the job any more."""
    told = db.execute(
        "SELECT quantity FROM usage_usageevent WHERE source = 'training' AND event_id LIKE %s ORDER BY event_id",
        [f"{job}:%"],
    ).fetchall()
    assert [quantity for (quantity,) in told] == [device_ms for _, device_ms in spans(db, job)]
    assert scalar(db, "SELECT hold IS NULL FROM training_job WHERE id = %s", job)


def test_a_job_becomes_a_deployed_model_with_its_lineage(rig: Any, tenant: Any, sums_db: psycopg.Connection) -> None:
    job = rig.queued(tenant, suffix="demo")
    queued = rig.job(tenant, job)
    assert (queued.state, queued.attempt) == (State.QUEUED, 0)
    assert queued.hold is not None
    assert queued.price_id is not None
    rig.turn()
    done = rig.job(tenant, job)
    assert (done.state, done.attempt, done.progress) == (State.SUCCEEDED, 1, 1.0)
    model = model_get(tenant=tenant.id, name=done.fine_tuned_model)
    assert model.name.startswith("ft:minilm-l6:org-")
    assert (model.job_id, model.version_id, model.metrics["accuracy"]) == (job, done.version_id, 0.9)
    assert served_model(tenant=tenant.id, name=model.name).digest == model.digest
    assert_settled(sums_db, job)
    rig.loader.step()
    rig.loader.step()
    assert rig.plane.loaded == [model.digest]


def test_the_story_is_told_in_order_and_once(rig: Any, tenant: Any, sums_db: psycopg.Connection) -> None:
    job = rig.queued(tenant)
    rig.turn()
    rig.turn()
    story = rig.story(tenant, job)
    assert story[0].startswith("Created fine-tuning job")
    assert story.index("Training started") < story.index("Checkpoint at step 5") < story.index("Training finished")
    assert story[-1].startswith("New fine-tuned model created")
    numbers = [n for (n,) in sums_db.execute("SELECT number FROM training_event WHERE job_id = %s ORDER BY 1", [job])]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.slow
def test_files_that_cannot_be_learned_fail_the_job_before_anything_is_held(
    rig: Any, tenant: Any, make_file: Callable[..., UUID], sums_db: psycopg.Connection
) -> None:
    job = rig.queued(tenant, training_file=make_file(tenant, content="text,label\n,a\nhello,b\n", filename="bad.csv"))
    failed = rig.job(tenant, job)
    assert (failed.state, failed.hold) == (State.FAILED, None)
    assert failed.error["code"] == "bad_rows"
    assert "line" in failed.error["message"]
    assert scalar(sums_db, "SELECT count(*) FROM usage_hold WHERE tenant_id = %s", tenant.id) == 0


def test_unknown_files_and_files_for_something_else_are_refused(
    rig: Any, tenant: Any, other_tenant: Any, make_file: Callable[..., UUID]
) -> None:
    with pytest.raises(NotFound):
        rig.create(tenant, training_file=make_file(other_tenant))
    with pytest.raises(Invalid, match="fine-tune"):
        rig.create(tenant, training_file=make_file(tenant, purpose="batch"))


@pytest.mark.slow
def test_a_trainer_gets_leave_for_what_the_hold_covers_and_less_at_each_attempt(rig: Any, tenant: Any) -> None:
    asked: list[JobSpec] = []

    def script(spec: JobSpec) -> Script:
        asked.append(spec)
        return Script(step_s=0.002, dies_after=7 if spec.attempt == 1 else None)

    rig.plane.script = script
    job = rig.queued(tenant, options=TrainingOptions(seed=7))
    while rig.job(tenant, job).state != State.SUCCEEDED:
        rig.turn()
    done = rig.job(tenant, job)
    assert [spec.max_device_ms + spec.prior_device_ms for spec in asked] == [done.max_device_ms] * 2
    assert asked[1].prior_device_ms > 0
    assert asked[0].options.seed == 7
    assert tenant.id.hex not in asked[0].flow


def test_a_killed_trainers_job_goes_on_from_its_last_checkpoint(
    rig: Any, tenant: Any, sums_db: psycopg.Connection
) -> None:
    rig.plane.script = lambda spec: Script(dies_after=7 if spec.attempt == 1 else None)
    job = rig.queued(tenant)
    rig.turn()
    lost = rig.job(tenant, job)
    assert (lost.state, lost.attempt, lost.losses) == (State.QUEUED, 1, 1)
    rig.turn()
    done = rig.job(tenant, job)
    assert (done.state, done.attempt) == (State.SUCCEEDED, 2)
    with tenant_scope(tenant.id):
        started = Event.objects.get(job_id=job, attempt=2, kind=EventKind.STARTED)
    assert started.data == {"resumed_from_step": 5}
    assert [attempt for attempt, _ in spans(sums_db, job)] == [1, 2]
    assert_settled(sums_db, job)


def test_a_finished_job_leaves_its_metrics_as_a_file_of_the_customer(
    rig: Any, tenant: Any, other_tenant: Any, sums_db: psycopg.Connection
) -> None:
    rig.plane.script = lambda spec: Script(dies_after=7 if spec.attempt == 1 else None)
    job = rig.queued(tenant)
    rig.turn()
    assert job_shape(job_get(tenant=tenant.id, job=job))["result_files"] == []
    rig.turn()
    named, *_ = job_shape(job_get(tenant=tenant.id, job=job))["result_files"]
    file = file_get(tenant=tenant.id, file=parse("file", named))
    assert (file.purpose, file.filename, file.status) == ("fine-tune-results", "step_metrics.csv", "processed")
    rows = list(csv.DictReader(io.StringIO(storage.read(file.path).decode())))
    with tenant_scope(tenant.id):
        told = [event.data for event in Event.objects.filter(job_id=job, kind=EventKind.METRICS).order_by("number")]
    steps = list(dict.fromkeys(data["step"] for data in told))
    assert len(told) > len(steps), "steps after the last checkpoint were done again"
    assert [int(row["step"]) for row in rows] == steps
    newest = {data["step"]: data["train_loss"] for data in told}
    assert {int(row["step"]): float(row["train_loss"]) for row in rows} == newest
    assert "progress" not in rows[0]
    with pytest.raises(NotFound):
        file_get(tenant=other_tenant.id, file=file.id)
    kept = sums_db.execute("SELECT count(*) FROM datasets_file WHERE purpose = 'fine-tune-results' AND tenant_id = %s",
                           [tenant.id])  # fmt: skip
    assert kept.fetchone() == (3,)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["succeeded", "cancelled"])
def test_the_checkpoints_of_an_ended_job_are_removed_and_its_model_stays(
    rig: Any, tenant: Any, sums_db: psycopg.Connection, how: str
) -> None:
    rig.plane.script = lambda spec: Script(dies_after=7 if spec.attempt == 1 else None)
    job = rig.queued(tenant)
    queued = (
        "SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'training.remove_checkpoints' AND args->>'job' = %s"
    )
    attempts = storage.path(tenant.id, "jobs", job.hex, "attempts")
    rig.turn()
    assert scalar(sums_db, queued, job.hex) == 0
    kept = [name for name in storage.walk(attempts) if "/checkpoints/" in name]
    assert kept, "the next attempt goes on from it"
    if how == "cancelled":
        services.job_cancel(tenant=tenant.id, by=tenant.principal, job=job)
    rig.turn()
    assert rig.job(tenant, job).state == how
    assert scalar(sums_db, queued, job.hex) == 1
    for _ in range(2):
        remove_checkpoints(tenant=tenant.id.hex, job=job.hex)
    left = list(storage.walk(attempts))
    assert [name for name in left if "/checkpoints/" in name] == []
    assert (f"2/model/{MANIFEST}" in left) == (how == "succeeded")


@pytest.mark.slow
def test_attempts_lost_in_a_row_without_a_checkpoint_fail_the_job_with_a_code(
    rig: Any, tenant: Any, sums_db: psycopg.Connection
) -> None:
    rig.plane.script = lambda spec: Script(dies_after=2)
    job = rig.queued(tenant)
    for _ in range(MAX_LOSSES + 1):
        rig.turn()
    failed = rig.job(tenant, job)
    assert (failed.state, failed.attempt, failed.error["code"]) == (State.FAILED, MAX_LOSSES, "attempts_exhausted")
    assert_settled(sums_db, job)


@pytest.mark.slow
def test_a_job_that_advances_between_losses_is_not_given_up(rig: Any, tenant: Any) -> None:
    rig.plane.script = lambda spec: Script(steps=100, checkpoint_every=5, dies_after=5 * spec.attempt + 1)
    job = rig.queued(tenant)
    for _ in range(MAX_LOSSES + 2):
        rig.turn()
    assert rig.job(tenant, job).state == State.QUEUED


def test_a_job_that_cannot_be_learned_fails_with_the_trainers_words(
    rig: Any, tenant: Any, sums_db: psycopg.Connection
) -> None:
    rig.plane.script = lambda spec: Script(outcome=EventKind.FAILED)
    job = rig.queued(tenant)
    rig.turn()
    failed = rig.job(tenant, job)
    assert (failed.state, failed.error["code"], failed.error["message"]) == (
        State.FAILED,
        "diverged",
        "The loss is NaN",
    )
    assert_settled(sums_db, job)


def test_a_job_that_the_data_plane_refuses_fails_with_its_reason(rig: Any, tenant: Any) -> None:
    rig.plane.refuses = "this base model is not at hand"
    job = rig.queued(tenant)
    rig.turn()
    failed = rig.job(tenant, job)
    assert (failed.state, failed.error["message"]) == (State.FAILED, "this base model is not at hand")


def test_a_model_whose_bytes_are_not_what_was_told_is_not_believed(
    rig: Any, tenant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tilth.dataplane.fake_trainer import FakeTrainer

    honest = FakeTrainer._success

    def forged(self: FakeTrainer) -> Any:
        kind, message, data = honest(self)
        return kind, message, {**data, "digest": "sha256:" + "0" * 64} if self.spec.attempt == 1 else data

    monkeypatch.setattr(FakeTrainer, "_success", forged)
    job = rig.queued(tenant)
    rig.turn()
    assert rig.job(tenant, job).state == State.QUEUED
    assert any("its model was refused" in message for message in rig.story(tenant, job))
    rig.turn()
    assert rig.job(tenant, job).state == State.SUCCEEDED


@pytest.mark.slow
def test_a_paused_job_holds_nothing_and_goes_on_where_it_stood(
    rig: Any, tenant: Any, sums_db: psycopg.Connection
) -> None:
    rig.plane.script = lambda spec: Script(step_s=0.01, steps=30)
    job = rig.queued(tenant)
    rig.turn()
    services.job_pause(tenant=tenant.id, by=tenant.principal, job=job)
    rig.turn()
    paused = rig.job(tenant, job)
    assert (paused.state, paused.hold, paused.stop) == (State.PAUSED, None, "")
    services.job_resume(tenant=tenant.id, by=tenant.principal, job=job)
    assert rig.job(tenant, job).hold is not None
    while rig.job(tenant, job).state != State.SUCCEEDED:
        rig.turn()
    assert_settled(sums_db, job)


def test_a_job_resumed_before_its_pause_was_done_goes_back_to_the_queue_by_itself(rig: Any, tenant: Any) -> None:
    rig.plane.script = lambda spec: Script(step_s=0.01, steps=30)
    job = rig.queued(tenant)
    rig.turn()
    services.job_pause(tenant=tenant.id, by=tenant.principal, job=job)
    services.job_resume(tenant=tenant.id, by=tenant.principal, job=job)
    rig.pull()
    assert rig.job(tenant, job).state == State.QUEUED


def test_a_job_cancelled_when_its_trainer_has_heard_of_the_pause_already_is_cancelled(
    rig: Any, tenant: Any, sums_db: psycopg.Connection
) -> None:
    rig.plane.script = lambda spec: Script(step_s=0.01, steps=1000)
    job = rig.queued(tenant)
    rig.turn()
    services.job_pause(tenant=tenant.id, by=tenant.principal, job=job)
    rig.plane.stop(job.hex, 1, "pause")
    services.job_resume(tenant=tenant.id, by=tenant.principal, job=job)
    services.job_cancel(tenant=tenant.id, by=tenant.principal, job=job)
    rig.pull()
    assert any(message.startswith("Paused at step") for message in rig.story(tenant, job)), "its last word"
    assert rig.job(tenant, job).state == State.CANCELLED
    assert_settled(sums_db, job)


def test_a_queued_job_is_paused_and_cancelled_at_once(rig: Any, tenant: Any, sums_db: psycopg.Connection) -> None:
    job = rig.queued(tenant)
    services.job_pause(tenant=tenant.id, by=tenant.principal, job=job)
    rig.turn()
    assert rig.job(tenant, job).state == State.PAUSED
    services.job_resume(tenant=tenant.id, by=tenant.principal, job=job)
    services.job_cancel(tenant=tenant.id, by=tenant.principal, job=job)
    services.job_cancel(tenant=tenant.id, by=tenant.principal, job=job)
    rig.turn()
    assert (rig.job(tenant, job).state, rig.plane.starts) == (State.CANCELLED, [])
    assert_settled(sums_db, job)


def test_a_running_job_is_cancelled_by_its_trainer(rig: Any, tenant: Any, sums_db: psycopg.Connection) -> None:
    rig.plane.script = lambda spec: Script(step_s=0.01, steps=1000)
    job = rig.queued(tenant)
    rig.turn()
    services.job_cancel(tenant=tenant.id, by=tenant.principal, job=job)
    rig.turn()
    assert rig.job(tenant, job).state == State.CANCELLED
    assert_settled(sums_db, job)


def test_an_ended_job_cannot_be_paused_or_resumed(rig: Any, tenant: Any) -> None:
    job = rig.queued(tenant)
    rig.turn()
    for change in (services.job_pause, services.job_resume, services.job_cancel):
        with pytest.raises(Invalid, match="has succeeded and cannot be"):
            change(tenant=tenant.id, by=tenant.principal, job=job)


def test_another_tenants_job_does_not_exist(rig: Any, tenant: Any, other_tenant: Any) -> None:
    job = rig.queued(tenant)
    for change in (services.job_pause, services.job_resume, services.job_cancel):
        with pytest.raises(NotFound):
            change(tenant=other_tenant.id, by=other_tenant.principal, job=job)


def test_a_job_that_no_trainers_memory_can_take_is_refused_with_the_number_and_holds_nothing(
    rig: Any, tenant: Any, sums_db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "ENV", replace(settings.ENV, trainer_memory_mb=500))
    job = rig.queued(tenant)
    found = rig.job(tenant, job)
    assert (found.state, found.error["code"], found.hold) == (State.FAILED, "memory", None)
    assert "takes at least 600 MB of memory; a trainer has 500 MB" in found.error["message"]
    monkeypatch.setattr(settings, "ENV", replace(settings.ENV, trainer_memory_mb=700))
    assert rig.job(tenant, rig.queued(tenant)).state == State.QUEUED


def ordered(**options: Any) -> TrainingOptions:
    body = JobIn(data={"model": "minilm-l6", "training_file": "file-" + "0" * 32, "options": options})
    assert body.is_valid(), body.errors
    return order_of(dict(body.validated_data)).options


def test_what_is_chosen_of_learning_reaches_the_trainer() -> None:
    found = ordered(
        method="dora", optimiser="adafactor", loss="focal", class_weights=True, label_smoothing=0.2, trials=8,
        targets="query_value", layers=3, consistency=0.0,
    )  # fmt: skip
    assert (found.method, found.optimiser, found.loss) == (Method.DORA, Optimiser.ADAFACTOR, Loss.FOCAL)
    assert (found.class_weights, found.label_smoothing, found.trials, found.layers) == (True, 0.2, 8, 3)
    assert found.consistency == 0.0
    assert found.targets is Targets.QUERY_VALUE
    assert ordered() == TrainingOptions()


TRIAL = {"trial": 3, "state": "ended", "score": 0.9, "interval": [0.8, 0.95], "device_ms": 70}
TUNED = {**TRIAL, "params": {"num_leaves": 8, "lambda_l2": 0.25}}
SEARCHED = {
    **TRIAL, "base_model": "wide", "method": "lora", "rank": 4, "targets": "all", "rate": 1.0, "epochs": 2,
    "batch_size": 16, "steps": 9, "of_steps": 27,
}  # fmt: skip


def test_a_models_page_shows_the_trials_of_every_search(rig: Any, tenant: Any, sums_db: psycopg.Connection) -> None:
    job = rig.queued(tenant)
    rig.turn()
    rig.pull()
    with tenant_scope(tenant.id):
        model = model_get(tenant=tenant.id, name=rig.job(tenant, job).fine_tuned_model)
        board = [{"name": "boosted", "trials": [TUNED]}, {"name": "search", "trials": [SEARCHED]}]
        model.report = {**model.report, "leaderboard": board}
        model.save(update_fields=["report"])
    page = tenant.browser.get(f"/models/{model.name}").content.decode()
    assert "1 trial of boosted" in page
    assert "num_leaves 8, lambda_l2 0.25" in page
    assert "1 trial of search" in page
    assert "wide, lora, rank 4, all, rate × 1.00, 2 epochs, batches of 16" in page
    assert "9 of 27" in page


@pytest.fixture
def two_bases(monkeypatch: pytest.MonkeyPatch) -> BaseModelOffer:
    """Beside its own base, support chat offers this one."""
    face = registry.verticals()["support_chat"]
    wide = BaseModelOffer(
        id="wide", title="Wide", source="local:wide", revision="1", licence="apache-2.0", memory_mb=900
    )
    both = face.model_copy(update={"base_models": (*face.base_models, wide)})
    for module in (registry, catalog):
        monkeypatch.setattr(module, "verticals", lambda: {face.name: both})
    return wide


def searching(rig: Any, tenant: Any, *, wins: str, bases: tuple[str, ...] = ("minilm-l6", "wide")) -> UUID:
    """A job that searches over both bases, on a data plane that has those bases."""
    plane = FakeDataPlane(signing_key().public_key(), base_models=bases, script=lambda _: Script(base_model=wins))
    rig.reach(plane)
    return rig.queued(tenant, options=TrainingOptions(trials=4, base_models=("wide",)))  # type: ignore[no-any-return]


def test_a_model_is_served_on_the_base_that_won_the_search(
    rig: Any, tenant: Any, two_bases: BaseModelOffer, sums_db: psycopg.Connection
) -> None:
    job = searching(rig, tenant, wins="wide")
    rig.turn()
    rig.pull()
    model = model_get(tenant=tenant.id, name=rig.job(tenant, job).fine_tuned_model)
    assert (model.base_model, model.base_revision) == ("wide", two_bases.revision)
    assert served_model(tenant=tenant.id, name=model.name).base_model == "wide"
    assert model.name == future_model_name(tenant=tenant.id, job=job)


def test_a_model_on_a_base_that_was_not_asked_for_is_refused(
    rig: Any, tenant: Any, two_bases: BaseModelOffer, sums_db: psycopg.Connection
) -> None:
    job = searching(rig, tenant, wins="narrow")
    rig.turn()
    rig.pull()
    found = rig.job(tenant, job)
    assert (found.state, found.fine_tuned_model) == (State.QUEUED, None)
    assert any("says base_model 'narrow'; the job's are minilm-l6, wide" in told for told in rig.story(tenant, job))


def test_a_search_waits_for_a_data_plane_that_has_all_its_bases(
    rig: Any, tenant: Any, two_bases: BaseModelOffer
) -> None:
    job = searching(rig, tenant, wins="wide", bases=("minilm-l6",))
    rig.turn()
    assert rig.job(tenant, job).state == State.QUEUED


def test_a_search_is_refused_by_the_memory_of_its_largest_base(
    rig: Any, tenant: Any, two_bases: BaseModelOffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "ENV", replace(settings.ENV, trainer_memory_mb=700))
    found = rig.job(tenant, searching(rig, tenant, wins="wide"))
    assert "takes at least 900 MB of memory; a trainer has 700 MB" in found.error["message"]


def test_base_models_that_are_not_on_offer_or_that_nothing_would_try_are_refused(two_bases: BaseModelOffer) -> None:
    assert ordered(trials=4, base_models=["wide"]).bases("minilm-l6") == ("minilm-l6", "wide")
    with pytest.raises(Invalid, match="support_chat has no base model 'bert' on offer; it offers minilm-l6, wide"):
        ordered(trials=4, base_models=["wide", "bert"])
    with pytest.raises(Invalid, match=r"say in `options\.trials` how many"):
        ordered(base_models=["wide"])


def test_a_loss_that_does_not_suit_the_target_is_refused_before_anything_is_paid() -> None:
    with pytest.raises(Invalid, match="'label' of support_chat is a label; it is learned by cross_entropy or focal"):
        ordered(loss="huber")


@pytest.mark.parametrize(
    "options",
    [
        {"method": "qlora"},
        {"optimiser": "lion"},
        {"trials": 1},
        {"trials": 65},
        {"label_smoothing": 0.9},
        {"consistency": 11},
    ],
)
def test_a_name_or_number_that_is_not_on_offer_is_refused(options: dict[str, Any]) -> None:
    body = JobIn(data={"model": "minilm-l6", "training_file": "file-" + "0" * 32, "options": options})
    assert not body.is_valid()
    assert set(body.errors["options"]) == set(options)


@pytest.mark.slow
def test_a_name_that_is_taken_when_the_job_ends_fails_it_with_the_reason(
    rig: Any, tenant: Any, sums_db: psycopg.Connection
) -> None:
    first, job = rig.queued(tenant), rig.queued(tenant, suffix="other")
    rig.turn()
    taken = future_model_name(tenant=tenant.id, job=job)
    sums_db.execute("UPDATE serving_deployment SET name = %s WHERE tenant_id = %s", [taken, tenant.id])
    while rig.job(tenant, job).finished_at is None:
        rig.turn()
    assert (rig.job(tenant, first).state, rig.job(tenant, job).state) == (State.SUCCEEDED, State.FAILED)
    assert "taken by another model" in rig.job(tenant, job).error["message"]
    assert_settled(sums_db, job)


def test_money_stays_held_for_a_job_that_waits_longer_than_a_hold_lives(
    rig: Any, tenant: Any, sums_db: psycopg.Connection
) -> None:
    job, cancelled = rig.queued(tenant), rig.queued(tenant)
    services.job_cancel(tenant=tenant.id, by=tenant.principal, job=cancelled)
    tenant_fold(tenant=tenant.id)
    began, holds = now(), "SELECT count(*) FROM usage_hold WHERE tenant_id = %s"
    for days in (5, 10, 15):
        with frozen(began + timedelta(days=days)):
            renew_holds(timestamp=0)
            tenant_sweep(tenant=tenant.id)
    assert scalar(sums_db, holds, tenant.id) == 1
    with frozen(began + timedelta(days=15) + services.HOLD_LIFE * 2):
        tenant_sweep(tenant=tenant.id)
    assert scalar(sums_db, holds, tenant.id) == 0, "nobody renewed it"
    assert rig.job(tenant, job).state == State.QUEUED


def test_a_trainers_grants_outlive_the_device_time_that_it_may_take(rig: Any, tenant: Any) -> None:
    specs: list[JobSpec] = []

    def script(spec: JobSpec) -> Script:
        specs.append(spec)
        return Script()

    rig.plane.script = script
    job = rig.queued(tenant)
    with tenant_scope(tenant.id):
        Job.objects.filter(id=job).update(max_device_ms=500 * 3_600_000)
    rig.turn()
    (spec,) = specs
    least = now().timestamp() + 500 * 3600
    assert min(spec.rows.expires_at, spec.output.expires_at) > least


async def revived() -> None:
    from procrastinate.contrib.django import app

    connector = app.connector.get_worker_connector()  # type: ignore[attr-defined]
    async with app.with_connector(connector).open_async() as worker:
        await revive_tasks(cast("Any", SimpleNamespace(app=worker)), timestamp=0)


def test_a_task_that_a_killed_worker_was_at_is_done_by_another(rig: Any, sums_db: psycopg.Connection) -> None:
    task = scalar(
        sums_db,
        "INSERT INTO procrastinate_jobs (queue_name, task_name, status, args) "
        "VALUES ('default', 'training.remove_checkpoints', 'doing', '{}') RETURNING id",
    )
    sums_db.commit()
    asyncio.run(revived())
    assert scalar(sums_db, "SELECT status FROM procrastinate_jobs WHERE id = %s", task) == "todo"
