"""What the worker reads across tenants, as the system role: each organisation's batch whose turn it is."""

from collections.abc import Collection
from datetime import UTC, datetime
from uuid import UUID

from django.db.models import F

from tilth.batches.models import Batch
from tilth.batches.states import AT_WORK, State

NEVER = datetime.min.replace(tzinfo=UTC)


def batches_to_read() -> list[tuple[UUID, UUID]]:
    """(tenant, batch) of each organisation's first batch whose file is not read yet."""
    rows = Batch.unscoped.using("system").filter(state=State.VALIDATING).order_by("tenant_id", "id")
    return list(rows.distinct("tenant_id").values_list("tenant_id", "id"))


def batches_to_work(but: Collection[UUID] = ()) -> list[tuple[UUID, UUID]]:
    """(tenant, batch) of each organisation's batch that was worked on longest ago; who waits longest comes first."""
    rows = (
        Batch.unscoped.using("system")
        .filter(state__in=AT_WORK)
        .exclude(id__in=list(but))
        .order_by("tenant_id", F("worked_at").asc(nulls_first=True), "id")
        .distinct("tenant_id")
        .values_list("tenant_id", "id", "worked_at")
    )
    found = sorted(rows, key=lambda row: row[2] or NEVER)
    return [(tenant, batch) for tenant, batch, _ in found]
