"""What the worker reads across tenants, as the system role: whose turn it is, who is running, what is to be checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import connections
from django.db.models import Q

from tilth.contract.messages import TrainingOptions
from tilth.core.clock import now
from tilth.training.models import Job
from tilth.training.states import ACTIVE, ENDED, State

# The tenant with the fewest running jobs is next, then the one served least (device time of the last day, halved for
# each hour that passed), then the one served longest ago; within a tenant the first queued.
NEXT = """
WITH turn AS (
    SELECT tenant_id,
        count(*) FILTER (WHERE state IN ('leased', 'running')) AS running,
        coalesce(sum((earlier_ms + attempt_ms) * power(0.5, extract(epoch FROM %(now)s - leased_at) / 3600))
            FILTER (WHERE leased_at > %(now)s - interval '1 day'), 0) AS served,
        max(leased_at) AS last
    FROM training_job
    WHERE state IN ('queued', 'leased', 'running') OR leased_at > %(now)s - interval '1 day'
    GROUP BY tenant_id)
SELECT job.tenant_id, job.id FROM training_job job JOIN turn USING (tenant_id)
WHERE job.state = 'queued' AND (cardinality(%(bases)s::text[]) = 0 OR (job.base_model = ANY(%(bases)s)
    AND coalesce(job.options -> 'base_models', '[]') <@ to_jsonb(%(bases)s::text[])))
ORDER BY turn.running, turn.served, turn.last NULLS FIRST, job.queued_at, job.id LIMIT 1"""


@dataclass(frozen=True)
class Attempt:
    """An attempt that a trainer has, or may have."""

    tenant: UUID
    job: UUID
    attempt: int
    last_seq: int
    stop: str
    dispatched: bool
    lease_until: datetime

    @property
    def prefix(self) -> str:
        """Its own place in storage."""
        return f"tenants/{self.tenant.hex}/jobs/{self.job.hex}/attempts/{self.attempt}/"


def next_queued(bases: Sequence[str] = ()) -> tuple[UUID, UUID] | None:
    """(tenant, job) whose turn it is, among jobs all of whose base models are these (any if there are none)."""
    with connections["system"].cursor() as cursor:
        cursor.execute(NEXT, {"now": now(), "bases": list(bases)})
        return cursor.fetchone()  # type: ignore[no-any-return]


def active_attempts() -> list[Attempt]:
    """Every attempt that is leased or running, oldest lease first."""
    columns = ("tenant_id", "id", "attempt", "last_seq", "stop", "dispatched_at", "lease_until")
    rows = Job.unscoped.using("system").filter(state__in=ACTIVE).order_by("leased_at").values_list(*columns)
    return [Attempt(t, j, a, seq, stop, sent is not None, until) for t, j, a, seq, stop, sent, until in rows]


def jobs_to_validate() -> list[tuple[UUID, UUID]]:
    """(tenant, job) whose files are to be checked and frozen, oldest first."""
    rows = Job.unscoped.using("system").filter(state=State.VALIDATING).order_by("id")
    return list(rows.values_list("tenant_id", "id"))


def jobs_held_for() -> list[tuple[UUID, UUID]]:
    """(tenant, job) of all that have not ended and for which money is held."""
    rows = Job.unscoped.using("system").filter(hold__isnull=False).exclude(state__in=ENDED)
    return list(rows.values_list("tenant_id", "id"))


def finished_rates(*, vertical: str, base_model: str, options: TrainingOptions) -> list[tuple[int, int]]:
    """(device ms, rows) of the last jobs of that kind that succeeded on this platform: how fast its machines are,
    nobody's data.
    """
    alike = Q(options__highest_rung=options.highest_rung.value)
    told = options.model_dump(mode="json", include={"method", "trials", "base_models"})
    for name, value in told.items():
        same = Q(**{f"options__{name}": value})
        alike &= same if value else same | Q(**{f"options__{name}__isnull": True})
    rows = Job.unscoped.using("system").filter(
        alike, state=State.SUCCEEDED, rows__isnull=False, vertical=vertical, base_model=base_model
    )
    found = rows.order_by("-finished_at").values_list("earlier_ms", "rows")[:50]
    return [(ms, count) for ms, count in found if count]
