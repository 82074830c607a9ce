"""Device spans: time that a job's attempt held a share of a device, from its start to its last heartbeat."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from django.db import connection
from django.db.models import Q

from tilth.core.clock import now
from tilth.core.errors import Invalid, NotFound
from tilth.core.scope import in_tenant
from tilth.usage.events import event_record
from tilth.usage.models import DeviceSpan

SKEW = timedelta(seconds=2)
"""Clocks of trainer and control plane may differ by this much."""
SLOTS = 1000
MILLISECOND = timedelta(milliseconds=1)


@in_tenant
def span_open(
    *, tenant: UUID, job: UUID, attempt: int, device: str, share_millis: int, price: UUID, opened_at: datetime
) -> None:
    """The attempt holds the device from now on; told twice it is one span. Raises Invalid if others hold it."""
    if DeviceSpan.objects.filter(job=job, attempt=attempt).exists():
        return
    if not 0 < share_millis <= SLOTS:
        raise Invalid(f"A share is 1 to {SLOTS} thousandths of a device, found {share_millis}.")
    _refuse_the_future(opened_at, job)
    _lock_device(device)
    start, slot = _place(device, share_millis, opened_at)
    DeviceSpan.objects.create(
        job=job, attempt=attempt, device=device, share_from=slot, share_to=slot + share_millis, price_id=price,
        opened_at=start, ends_at=start, skipped_ms=-(-(start - opened_at) // MILLISECOND),
    )  # fmt: skip


@in_tenant
def span_extend(*, tenant: UUID, job: UUID, attempt: int, device_ms: int) -> None:
    """A heartbeat: held for device_ms since it was opened. An older one, or one after the close, changes nothing."""
    span = _span(job, attempt)
    if span.closed_at is None:
        _extend(span, device_ms)
        span.save(update_fields=["device_ms", "ends_at"])


@in_tenant
def span_close(*, tenant: UUID, job: UUID, attempt: int, device_ms: int, reason: str) -> None:
    """The last word on a span; exactly one usage event follows, however often it is told."""
    span = _span(job, attempt)
    if span.closed_at is not None:
        return
    _extend(span, device_ms)
    span.closed_at, span.reason = now(), reason[:40]
    span.save(update_fields=["device_ms", "ends_at", "closed_at", "reason"])
    share = span.share_to - span.share_from
    event_record(
        tenant=tenant, source="training", event_id=f"{job}:{attempt}", price=span.price_id,
        quantity=span.device_ms * share // SLOTS, subject=f"ftjob-{job.hex}", occurred_at=span.ends_at,
        data={"device_ms": span.device_ms, "share_millis": share, "attempt": attempt, "reason": span.reason},
    )  # fmt: skip


def first_gap(taken: Iterable[tuple[int, int]], share: int) -> int | None:
    """Where ``share`` slots of SLOTS in a row are free of the taken [from, to); None if nowhere."""
    at = 0
    for begin, end in sorted(taken):
        if begin - at >= share:
            break
        at = max(at, end)
    return at if at + share <= SLOTS else None


def _span(job: UUID, attempt: int) -> DeviceSpan:
    found = DeviceSpan.locked(job=job, attempt=attempt)
    if found is None:
        raise NotFound(f"Attempt {attempt} of job {job} has opened no device span.")
    return found


def _extend(span: DeviceSpan, device_ms: int) -> None:
    """Only ever longer; raises Invalid for more than the time that has passed."""
    span.device_ms = max(span.device_ms, device_ms - span.skipped_ms)
    span.ends_at = span.opened_at + span.device_ms * MILLISECOND
    _refuse_the_future(span.ends_at, span.job)


def _refuse_the_future(moment: datetime, job: UUID) -> None:
    ahead = moment - now()
    if ahead > SKEW:
        raise Invalid(f"Job {job} reports device time {ahead / MILLISECOND:.0f} ms ahead of the clock; not counted.")


def _lock_device(device: str) -> None:
    """Until the transaction ends, nobody else looks for a place on this device."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 2))", [device])


def _place(device: str, share: int, opened_at: datetime) -> tuple[datetime, int]:
    """Start and first slot: beside everybody who holds the device, whoever's they are, whether heard of or silent.

    Failing that, where nobody's recorded time is; failing that, as soon as it ends, if that is within SKEW.
    """
    near = Q(ends_at__gt=opened_at) | Q(closed_at=None)
    spans = list(DeviceSpan.unscoped.using("system").filter(near, device=device))
    everybody = [(span.share_from, span.share_to) for span in spans]
    if (slot := first_gap(everybody, share)) is not None:
        return opened_at, slot
    ends = sorted(span.ends_at for span in spans if opened_at < span.ends_at <= opened_at + SKEW)
    for start in [opened_at, *ends]:
        recorded = [(span.share_from, span.share_to) for span in spans if span.ends_at > start]
        if (slot := first_gap(recorded, share)) is not None:
            return start, slot
    raise Invalid(
        f"The device {device} is held by others at {opened_at.isoformat()}; {share} thousandths are not free."
    )
