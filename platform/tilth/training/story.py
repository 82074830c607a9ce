"""A job's story: stores each event once, in order; the caller holds the job's row."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from tilth.contract.messages import EventKind, TrainerEvent
from tilth.core.clock import now
from tilth.training.models import Event, Job


def tell(job: Job, message: str, *, level: str = "info", **data: Any) -> None:
    """An event of our own; the caller saves the job."""
    job.event_count += 1
    Event.objects.create(
        job=job, number=job.event_count, attempt=0, seq=job.event_count, at=now(), kind=EventKind.MESSAGE,
        level=level, message=message, data=data,
    )  # fmt: skip


def store(job: Job, events: Sequence[TrainerEvent]) -> None:
    """A trainer's events, which follow job.last_seq without a gap; the caller saves the job."""
    rows = [
        Event(
            job=job, number=job.event_count + place, attempt=event.attempt, seq=event.seq, kind=event.kind,
            at=datetime.fromtimestamp(event.at_ms / 1000, UTC), level=event.level, message=event.message,
            data=event.data,
        )
        for place, event in enumerate(events, start=1)
    ]  # fmt: skip
    Event.objects.bulk_create(rows)
    job.event_count += len(rows)
    job.last_seq = events[-1].seq
