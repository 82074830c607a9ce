"""What a trainer's events do beside being stored: spans, checkpoints, the job's progress."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

from django.db import IntegrityError, transaction

from tilth.contract.messages import EventKind, TrainerEvent
from tilth.core.errors import TilthError, Unavailable
from tilth.training.models import Checkpoint, Event, Job
from tilth.training.places import attempt_prefix, inside
from tilth.training.states import State
from tilth.usage import services as usage

LONGEST_S = 1e9
"""An estimate that is longer is none."""


class BadReport(Exception):
    """A trainer reported what cannot be: the attempt is given up, the job goes on with the next."""


def apply(job: Job, events: Sequence[TrainerEvent]) -> None:
    """In order; the caller saves the job. Raises BadReport for data that is missing, of the wrong kind or refused."""
    last_beat = max((event.seq for event in events if event.kind is EventKind.HEARTBEAT), default=0)
    for event in events:
        if event.kind is EventKind.HEARTBEAT and event.seq < last_beat:
            continue
        try:
            with transaction.atomic():
                _apply(job, event)
        except Unavailable:
            raise
        except (KeyError, TypeError, ValueError, IntegrityError, TilthError) as cause:
            raise BadReport(f"event {event.seq} ({event.kind}): {cause}") from cause


def span_is_open(job: Job) -> bool:
    """Whether the newest attempt holds a device, as far as it has told."""
    kinds = set(
        Event.objects.filter(
            job=job, attempt=job.attempt, kind__in=[EventKind.SPAN_OPENED, EventKind.SPAN_CLOSED]
        ).values_list("kind", flat=True)
    )
    return EventKind.SPAN_OPENED in kinds and EventKind.SPAN_CLOSED not in kinds


def _apply(job: Job, event: TrainerEvent) -> None:
    data: dict[str, Any] = event.data
    at = datetime.fromtimestamp(event.at_ms / 1000, UTC)
    match event.kind:
        case EventKind.SPAN_OPENED:
            usage.span_open(
                tenant=job.tenant_id, job=job.id, attempt=job.attempt, device=str(data["device"]),
                share_millis=int(data["share_millis"]), price=cast(UUID, job.price_id), opened_at=at,
            )  # fmt: skip
        case EventKind.HEARTBEAT:
            job.attempt_ms = _counted(data, "device_ms")
            usage.span_extend(tenant=job.tenant_id, job=job.id, attempt=job.attempt, device_ms=job.attempt_ms)
        case EventKind.SPAN_CLOSED:
            span_close(job, _counted(data, "device_ms"), str(data.get("reason", "exit")))
        case EventKind.STARTED:
            job.state = State.RUNNING
            job.started_at = job.started_at or at
        case EventKind.METRICS:
            job.progress = _within(data.get("progress", job.progress), 1.0)
            eta_s = data.get("eta_s")
            job.eta_s = None if eta_s is None else _within(eta_s, LONGEST_S)
        case EventKind.CHECKPOINT:
            _checkpoint(job, data)
        case _:
            pass  # messages are only stored; the terminal kinds take effect when the attempt has ended


def span_close(job: Job, device_ms: int, reason: str) -> None:
    """Ends the newest attempt's device time; exactly one usage event follows."""
    job.attempt_ms = device_ms
    usage.span_close(tenant=job.tenant_id, job=job.id, attempt=job.attempt, device_ms=device_ms, reason=reason)


def _checkpoint(job: Job, data: dict[str, Any]) -> None:
    Checkpoint.objects.create(
        job=job, attempt=job.attempt, step=_counted(data, "step"), rung=str(data.get("rung", "")),
        path=inside(attempt_prefix(job), str(data["path"])), digest=str(data.get("digest", "")),
        metrics=dict(data.get("metrics", {})),
    )  # fmt: skip
    job.losses = 0


def _counted(data: dict[str, Any], name: str) -> int:
    """A whole number that is not negative; negative device time would give a job more than its cap."""
    if (number := int(data[name])) < 0:
        raise ValueError(f"{name} is {number}")
    return number


def _within(told: Any, most: float) -> float:
    if not 0 <= (number := float(told)) <= most:  # refuses NaN, too
        raise ValueError(f"{number} is not within 0 and {most}")
    return number
