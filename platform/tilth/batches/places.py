"""Where the objects of a batch lie below TILTH_ARTIFACTS, until it has ended."""

from uuid import UUID

from tilth.core import storage


def prefix(tenant: UUID, batch: UUID) -> str:
    """Everything."""
    return storage.path(tenant, "batches", batch.hex)


def chunk_path(tenant: UUID, batch: UUID, number: int) -> str:
    """A chunk's lines as they were read: a copy, so the input file may be deleted meanwhile."""
    return f"{prefix(tenant, batch)}/chunks/{number:06d}"


def answers_path(tenant: UUID, batch: UUID, number: int, turn: int) -> str:
    """A chunk's answers, of one turn alone: what a late one writes stands nowhere."""
    return f"{prefix(tenant, batch)}/answers/{number:06d}-{turn}"
