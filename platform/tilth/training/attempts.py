"""Writes on behalf of a trainer: each names its attempt, and a stale one is refused."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db import DataError

from tilth.contract.messages import TrainerEvent
from tilth.core.bodies import refuse_unkept
from tilth.core.clock import now
from tilth.core.crash import crash_point
from tilth.core.errors import Invalid
from tilth.core.scope import in_tenant
from tilth.training.effects import BadReport, apply
from tilth.training.models import Job
from tilth.training.states import ACTIVE, State, Stop
from tilth.training.story import store

AHEAD = timedelta(hours=1)
"""A trainer's clock may be wrong by this much; device time is held to less (usage.spans)."""


class StaleAttempt(RuntimeError):
    """Somebody wrote for an attempt that is no longer the newest, or has ended."""


def attempt_locked(job: UUID, attempt: int) -> Job:
    """The job's row, locked; raises StaleAttempt unless that attempt is the newest and alive."""
    found = Job.locked(id=job)
    if found is None or found.attempt != attempt or found.state not in ACTIVE:
        newest = "gone" if found is None else f"{found.state}, attempt {found.attempt}"
        raise StaleAttempt(f"a write for attempt {attempt} of job {job.hex}, which is {newest}")
    return found


def lease_end() -> timedelta:
    """Silence after which an attempt is given up."""
    return timedelta(seconds=settings.ENV.lease_s)


@in_tenant
def attempt_lease(*, tenant: UUID, job: UUID) -> Job | None:
    """The next attempt of a queued job, leased; None if another dispatcher has it or it is queued no more."""
    found = Job.objects.select_for_update(skip_locked=True).filter(id=job, state=State.QUEUED).first()
    if found is None:
        return None
    found.attempt += 1
    found.state, found.stop = State.LEASED, Stop.NONE
    found.leased_at, found.dispatched_at = now(), None
    found.lease_until = now() + lease_end()
    found.last_seq = found.attempt_ms = 0
    found.save()
    crash_point("lease.written")
    return found


@in_tenant
def attempt_acknowledged(*, tenant: UUID, job: UUID, attempt: int) -> None:
    """The data plane has it: from now on silence counts."""
    found = attempt_locked(job, attempt)
    found.dispatched_at = now()
    found.lease_until = now() + lease_end()
    found.save(update_fields=["dispatched_at", "lease_until"])


@in_tenant
def page_apply(*, tenant: UUID, job: UUID, attempt: int, events: Sequence[TrainerEvent]) -> None:
    """Stores what is new of a page and does what it says, in one transaction; a page twice changes nothing.

    Raises BadReport for events of another attempt, with a gap, of a time to come or that cannot be kept.
    """
    found = attempt_locked(job, attempt)
    fresh = [event for event in events if event.seq > found.last_seq]
    if not fresh:
        return
    _check(found, fresh)
    try:
        _take(found, fresh)
    except (DataError, ValueError, OverflowError, Invalid) as cause:
        raise BadReport(f"events {fresh[0].seq}…{fresh[-1].seq} cannot be kept: {cause}") from cause


def _take(job: Job, events: Sequence[TrainerEvent]) -> None:
    for event in events:
        refuse_unkept([event.message, event.data], f"Event {event.seq}")
    store(job, events)
    crash_point("page.stored")
    apply(job, events)
    crash_point("page.applied")
    job.lease_until = now() + lease_end()
    job.save()
    crash_point("page.saved")


def _check(job: Job, events: Sequence[TrainerEvent]) -> None:
    expected = range(job.last_seq + 1, job.last_seq + 1 + len(events))
    if [event.seq for event in events] != list(expected):
        raise BadReport(f"events {events[0].seq}…{events[-1].seq} came where {expected.start} was next")
    if {(event.job, event.attempt) for event in events} != {(job.id.hex, job.attempt)}:
        raise BadReport("events of another attempt came")
    if late := [event.seq for event in events if event.at_ms > (now() + AHEAD).timestamp() * 1000]:
        raise BadReport(f"event {late[0]} tells of a time that has not come")
