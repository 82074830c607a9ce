"""A customer's reads of jobs, their events and checkpoints."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db.models import Count

from tilth.core.errors import NotFound
from tilth.core.ids import public
from tilth.core.money import Price
from tilth.core.pages import page
from tilth.core.scope import in_tenant
from tilth.registry.names import model_name
from tilth.tenants.selectors import organisation_get
from tilth.training import estimates
from tilth.training.models import Checkpoint, Event, Job
from tilth.training.states import State


@dataclass(frozen=True)
class JobView:
    """A job with what is computed for showing it."""

    job: Job
    queue_position: int | None
    estimate: dict[str, Any] | None


@in_tenant
def job_get(*, tenant: UUID, job: UUID) -> JobView:
    """One job; raises NotFound."""
    found = Job.objects.select_related("price", "version").filter(id=job).first()
    if found is None:
        raise NotFound.of("job", public("ftjob", job))
    return _views([found])[0]


@in_tenant
def job_list(
    *, tenant: UUID, limit: int = 20, after: UUID | None = None, metadata: dict[str, str] | None = None
) -> tuple[list[JobView], bool]:
    """A page of jobs, newest first, that carry all the metadata asked for; and whether there are more."""
    rows = Job.objects.select_related("price", "version")
    if metadata:
        rows = rows.filter(metadata__contains=metadata)
    jobs, more = page(rows, after=after, limit=limit, kind="ftjob")
    return _views(jobs), more


@in_tenant
def event_list(*, tenant: UUID, job: UUID, limit: int = 20, after: UUID | None = None) -> tuple[list[Event], bool]:
    """A page of a job's events that say something, newest first."""
    _exists(job)
    rows = Event.objects.filter(job_id=job).exclude(message="")
    return page(rows, after=after, limit=limit, kind="ftevent", by="number")


@in_tenant
def checkpoint_list(
    *, tenant: UUID, job: UUID, limit: int = 10, after: UUID | None = None
) -> tuple[list[Checkpoint], bool]:
    """A page of a job's checkpoints, newest first."""
    _exists(job)
    return page(Checkpoint.objects.filter(job_id=job), after=after, limit=limit, kind="ftckpt")


@in_tenant
def future_model_name(*, tenant: UUID, job: UUID) -> str:
    """The name that a job's model has, or will have."""
    found = Job.objects.get(id=job)
    slug = organisation_get(tenant=tenant).slug
    return model_name(base_model=found.base_model, organisation=slug, suffix=found.suffix, job=job)


def _exists(job: UUID) -> None:
    if not Job.objects.filter(id=job).exists():
        raise NotFound.of("job", public("ftjob", job))


def _views(jobs: list[Job]) -> list[JobView]:
    queued = [job for job in jobs if job.state == State.QUEUED]
    places = _places(queued[0].tenant_id) if queued else {}
    return [JobView(job, places.get(job.id), _estimate(job)) for job in jobs]


def _estimate(job: Job) -> dict[str, Any] | None:
    price = Price(job.price.micro_usd, job.price.per_quantity) if job.price else None
    return estimates.shown(job.estimate_ms, job.max_device_ms, price)


def _places(tenant: UUID) -> dict[UUID, int]:
    """Queue positions of all the tenant's queued jobs; of the others only their numbers are read."""
    own = Job.objects.filter(state=State.QUEUED).order_by("queued_at", "id").values_list("id", flat=True)
    waiting = Job.unscoped.using("system").filter(state=State.QUEUED).exclude(tenant_id=tenant)
    others = list(waiting.values("tenant_id").annotate(n=Count("id")).values_list("n", flat=True))
    return {job: estimates.queue_position(ahead, others) for ahead, job in enumerate(own)}
