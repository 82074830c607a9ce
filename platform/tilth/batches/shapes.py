"""How batches look to customers: OpenAI's object, our own facts beside its keys."""

from datetime import datetime
from typing import Any

from tilth.batches.models import Batch
from tilth.batches.states import State
from tilth.core.ids import public

ENDS = {
    State.COMPLETED: "completed_at",
    State.FAILED: "failed_at",
    State.EXPIRED: "expired_at",
    State.CANCELLED: "cancelled_at",
}


def batch_shape(batch: Batch) -> dict[str, Any]:
    """``batch``."""
    return {
        "id": public("batch", batch.id),
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model or None,
        "errors": {"object": "list", "data": batch.errors} if batch.errors else None,
        "input_file_id": public("file", batch.input_file_id),
        "completion_window": "24h",
        "status": status(batch),
        "output_file_id": public("file", batch.output_file_id) if batch.output_file_id else None,
        "error_file_id": public("file", batch.error_file_id) if batch.error_file_id else None,
        "created_at": _seconds(batch.created_at),
        "in_progress_at": _seconds(batch.in_progress_at),
        "expires_at": _seconds(batch.expires_at),
        "finalizing_at": _seconds(batch.finalizing_at),
        "cancelling_at": _seconds(batch.cancelling_at),
        **{name: _seconds(batch.finished_at) if batch.state == state else None for state, name in ENDS.items()},
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "usage": _usage(batch),
        "metadata": batch.metadata,
        **_own(batch),
    }


def status(batch: Batch) -> str:
    """A cancelled one is being cancelled until its files are there."""
    cancelled = batch.state == State.FINALIZING and batch.ending == State.CANCELLED
    return State.CANCELLING.value if cancelled else str(batch.state)


def _usage(batch: Batch) -> dict[str, Any]:
    return {
        "input_tokens": batch.answered_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": batch.answered_tokens,
    }


def _own(batch: Batch) -> dict[str, Any]:
    price = batch.price
    return {
        "rows": batch.rows,
        "answered_rows": batch.answered_rows,
        "columns": batch.columns,
        "digest": batch.digest or None,
        "price": price and {"unit": price.unit, "micro_usd": price.micro_usd, "per_quantity": price.per_quantity},
    }


def _seconds(at: datetime | None) -> int | None:
    return int(at.timestamp()) if at else None
