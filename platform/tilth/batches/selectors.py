"""A customer's reads of batches."""

from uuid import UUID

from tilth.batches.models import Batch
from tilth.core.errors import NotFound
from tilth.core.ids import public
from tilth.core.pages import page
from tilth.core.scope import in_tenant


@in_tenant
def batch_get(*, tenant: UUID, batch: UUID) -> Batch:
    """One batch with its price; raises NotFound."""
    found = Batch.objects.select_related("price").filter(id=batch).first()
    if found is None:
        raise NotFound.of("batch", public("batch", batch))
    return found


@in_tenant
def batch_list(*, tenant: UUID, limit: int = 20, after: UUID | None = None) -> tuple[list[Batch], bool]:
    """A page of batches, newest first, with their input files, and whether there are more."""
    return page(Batch.objects.select_related("price", "input_file"), after=after, limit=limit, kind="batch")
