"""What an ended job leaves in storage and nobody can go on from: the bytes of its checkpoints; their rows stay."""

from uuid import UUID

from procrastinate.contrib.django import app

from tilth.core import storage
from tilth.core.deletions import deletion
from tilth.training.models import Job


def remove_later(job: Job) -> None:
    """Done by the worker once this transaction, which ends the job, has committed."""
    app.configure_task("training.remove_checkpoints").defer(tenant=job.tenant_id.hex, job=job.id.hex)


def remove_checkpoints(*, tenant: UUID, job: UUID) -> None:
    """Of all attempts; doing it twice changes nothing. After the backup, if one runs."""
    attempts = storage.path(tenant, "jobs", job.hex, "attempts")
    with deletion():
        for attempt in storage.names(attempts):
            storage.delete_prefix(f"{attempts}/{attempt}/checkpoints")
