"""What an ended batch leaves in storage and nobody reads any more: its chunks and their answers; its files stay."""

from uuid import UUID

from procrastinate.contrib.django import app

from tilth.batches.models import Batch
from tilth.batches.places import prefix
from tilth.core import storage
from tilth.core.deletions import deletion


def remove_later(batch: Batch) -> None:
    """Done by the worker once this transaction, which ends the batch, has committed."""
    app.configure_task("batches.remove_objects").defer(tenant=batch.tenant_id.hex, batch=batch.id.hex)


def remove_objects(*, tenant: UUID, batch: UUID) -> None:
    """Doing it twice changes nothing. After the backup, if one runs."""
    with deletion():
        storage.delete_prefix(prefix(tenant, batch))
