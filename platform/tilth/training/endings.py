"""How an attempt ends: succeeded, failed, paused, cancelled or lost; its span closed, its hold released, once."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from tilth.core.clock import now
from tilth.core.crash import crash_point
from tilth.core.scope import in_tenant
from tilth.core.wake import wake_worker
from tilth.datasets import services as datasets
from tilth.registry import services as registry
from tilth.registry.folders import VerifiedFolder
from tilth.serving import services as serving
from tilth.training.attempts import attempt_locked
from tilth.training.effects import span_close, span_is_open
from tilth.training.leftovers import remove_later
from tilth.training.models import Checkpoint, Job
from tilth.training.results import Results
from tilth.training.states import MAX_LOSSES, State, Stop
from tilth.training.story import tell
from tilth.usage import services as usage


@in_tenant
def attempt_succeeded(
    *,
    tenant: UUID,
    job: UUID,
    attempt: int,
    folder: VerifiedFolder,
    results: Mapping[str, Results],
    facts: dict[str, Any],
) -> None:
    """The model is made and deployed under its own name, in the same transaction that ends the job.

    ``facts`` is the data of the trainer's ``succeeded`` event; ``results`` are files by the job's fields.
    """
    found = attempt_locked(job, attempt)
    _close_span(found, "finish", "exit")
    model = registry.model_create(tenant=tenant, job=found, folder=folder, facts=facts)
    crash_point("finish.model_made")
    serving.deployment_create(tenant=tenant, name=model.name, model=model.id)
    crash_point("finish.deployed")
    for field, made in results.items():
        file = datasets.result_create(tenant=tenant, file=made.file, filename=made.filename, stored=made.stored)
        setattr(found, field, file)
    found.fine_tuned_model = model.name
    found.trained_tokens = facts.get("trained_tokens")
    found.progress = 1.0
    tell(found, f"New fine-tuned model created: {model.name}")
    _leave(found, State.SUCCEEDED, "finish")


@in_tenant
def attempt_failed(*, tenant: UUID, job: UUID, attempt: int, code: str, message: str) -> None:
    """The job's own fault, said by the trainer or by the data plane: another attempt would change nothing."""
    found = attempt_locked(job, attempt)
    _close_span(found, "fail", "exit")
    _fail(found, code, message, "fail")


@in_tenant
def attempt_paused(*, tenant: UUID, job: UUID, attempt: int) -> None:
    """Holds neither a device nor money until it is resumed; one that was cancelled meanwhile never is."""
    found = attempt_locked(job, attempt)
    _close_span(found, "pause", "exit")
    if found.stop == Stop.CANCEL:
        _cancel(found, "pause")
    else:
        _park(found, "pause")


@in_tenant
def attempt_cancelled(*, tenant: UUID, job: UUID, attempt: int) -> None:
    """As the customer asked; what was used stays billed."""
    found = attempt_locked(job, attempt)
    _close_span(found, "cancel", "exit")
    _cancel(found, "cancel")


@in_tenant
def attempt_lost(*, tenant: UUID, job: UUID, attempt: int, why: str) -> None:
    """The trainer died or went silent: the job goes on from its last checkpoint, unless this happened too often."""
    found = attempt_locked(job, attempt)
    _close_span(found, "lost", "lost")
    found.losses += 1
    tell(found, f"Attempt {attempt} was given up: {why}", level="warn")
    match found.stop:
        case Stop.CANCEL:
            _leave(found, State.CANCELLED, "lost")
        case Stop.PAUSE:
            _park(found, "lost")
        case _ if found.losses >= MAX_LOSSES:
            message = f"{found.losses} attempts in a row were lost without a new checkpoint; the last one: {why}"
            _fail(found, "attempts_exhausted", message, "lost")
        case _:
            _requeue(found)
            found.save()
            crash_point("lost.saved")


@in_tenant
def attempt_released(*, tenant: UUID, job: UUID, attempt: int) -> None:
    """No trainer was free after all: back to the queue, nothing is lost; a stop asked for meanwhile is done now."""
    found = attempt_locked(job, attempt)
    found.lease_until = None
    match found.stop:
        case Stop.CANCEL:
            _cancel(found, "cancel")
        case Stop.PAUSE:
            _park(found, "pause")
        case _:
            found.state, found.stop = State.QUEUED, Stop.NONE
            found.save()


def _close_span(job: Job, point: str, reason: str) -> None:
    if span_is_open(job):
        span_close(job, job.attempt_ms, reason)
    job.earlier_ms += job.attempt_ms
    job.attempt_ms = 0
    job.lease_until = None
    crash_point(f"{point}.span_closed")


def _requeue(job: Job) -> None:
    """In its old place; fails instead when nothing is left of the device time that the hold covers."""
    if job.max_device_ms is not None and job.earlier_ms >= job.max_device_ms:
        _fail(job, "device_time_used_up", f"All {job.max_device_ms // 1000} s of device time are used.", "lost")
        return
    newest = Checkpoint.objects.filter(job=job).order_by("-step").first()
    tell(job, f"Queued again, to go on from step {newest.step}" if newest else "Queued again, to start anew")
    job.state, job.stop = State.QUEUED, Stop.NONE
    wake_worker()


def _park(job: Job, point: str) -> None:
    if job.stop == Stop.RESTART:
        _requeue(job)
        job.save()
        return
    _release(job)
    crash_point("pause.hold_released")
    tell(job, "The job is paused")
    job.state, job.stop = State.PAUSED, Stop.NONE
    job.save()
    crash_point(f"{point}.saved")


def _cancel(job: Job, point: str) -> None:
    tell(job, "The job has been cancelled")
    _leave(job, State.CANCELLED, point)


def _fail(job: Job, code: str, message: str, point: str) -> None:
    job.error = {"code": code, "message": message, "param": None}
    tell(job, message, level="error")
    _leave(job, State.FAILED, point)


def _leave(job: Job, state: State, point: str) -> None:
    """For good: money released, finished now."""
    _release(job)
    crash_point(f"{point}.hold_released")
    job.state, job.stop = state, Stop.NONE
    job.finished_at, job.eta_s = now(), None
    job.save()
    remove_later(job)
    crash_point(f"{point}.saved")
    wake_worker()


def _release(job: Job) -> None:
    if job.hold is not None:
        usage.hold_release(tenant=job.tenant_id, hold=job.hold)
        job.hold = None
