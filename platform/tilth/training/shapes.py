"""How jobs, events and checkpoints look to customers: OpenAI's objects, our own facts beside their keys."""

from typing import Any

from tilth.contract.messages import EventKind
from tilth.core.ids import public
from tilth.registry.names import checkpoint_name
from tilth.training.models import Checkpoint, Event, Job
from tilth.training.results import FILES
from tilth.training.selectors import JobView
from tilth.training.states import State

# OpenAI has no word for a paused job: it shows as queued, and our field ``paused`` tells.
STATUS = {
    State.VALIDATING: "validating_files",
    State.QUEUED: "queued",
    State.LEASED: "running",
    State.RUNNING: "running",
    State.PAUSED: "queued",
    State.SUCCEEDED: "succeeded",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
}
AUTO = "auto"


def job_shape(view: JobView) -> dict[str, Any]:
    """``fine_tuning.job``."""
    job = view.job
    hyperparameters = _hyperparameters(job)
    return {
        "id": public("ftjob", job.id),
        "object": "fine_tuning.job",
        "created_at": _seconds(job.created_at),
        "finished_at": _seconds(job.finished_at),
        "model": job.base_model,
        "fine_tuned_model": job.fine_tuned_model,
        "organization_id": public("org", job.tenant_id),
        "status": STATUS[State(job.state)],
        "error": job.error,
        "hyperparameters": hyperparameters,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        "training_file": public("file", job.training_file_id),
        "validation_file": public("file", job.validation_file_id) if job.validation_file_id else None,
        "result_files": [file for file, _ in result_files(job)],
        "seed": job.options.get("seed", 0),
        "trained_tokens": job.trained_tokens,
        "estimated_finish": _finish(job),
        "integrations": [],
        "metadata": job.metadata,
        **_own(view),
    }


def result_files(job: Job) -> list[tuple[str, str]]:
    """(id, name) of what the job left."""
    ids = ((getattr(job, f"{field}_id"), name) for field, name in FILES.items())
    return [(public("file", id_), name) for id_, name in ids if id_]


def event_shape(event: Event) -> dict[str, Any]:
    """``fine_tuning.job.event``."""
    return {
        "id": public("ftevent", event.id),
        "object": "fine_tuning.job.event",
        "created_at": _seconds(event.at),
        "level": event.level,
        "message": event.message,
        "type": "metrics" if event.kind == EventKind.METRICS else "message",
        "data": event.data or None,
    }


def checkpoint_shape(checkpoint: Checkpoint, model: str) -> dict[str, Any]:
    """``fine_tuning.job.checkpoint``."""
    return {
        "id": public("ftckpt", checkpoint.id),
        "object": "fine_tuning.job.checkpoint",
        "created_at": _seconds(checkpoint.created_at),
        "fine_tuned_model_checkpoint": checkpoint_name(model, checkpoint.step),
        "fine_tuning_job_id": public("ftjob", checkpoint.job_id),
        "step_number": checkpoint.step,
        "metrics": {"step": checkpoint.step, **checkpoint.metrics},
    }


def _own(view: JobView) -> dict[str, Any]:
    job = view.job
    return {
        "vertical": job.vertical,
        "suffix": job.suffix or None,
        "paused": job.state == State.PAUSED,
        "stopping": job.stop or None,
        "queue_position": view.queue_position,
        "estimate": view.estimate,
        "progress": job.progress,
        "attempt": job.attempt,
        "device_ms": job.earlier_ms + job.attempt_ms,
        "dataset": public("dsv", job.version_id) if job.version_id else None,
        "test_file": public("file", job.test_file_id) if job.test_file_id else None,
    }


def _hyperparameters(job: Job) -> dict[str, Any]:
    """As the engine got them; what it chooses by itself is ``auto``."""
    options = job.options
    chosen = {
        "n_epochs": options.get("epochs"),
        "batch_size": options.get("batch_size"),
        "learning_rate_multiplier": options.get("learning_rate_multiplier"),
    }
    return {name: AUTO if value is None else value for name, value in chosen.items()}


def _finish(job: Job) -> int | None:
    """Unix seconds, from the trainer's own guess while it runs."""
    if job.state != State.RUNNING or job.eta_s is None or job.lease_until is None:
        return None
    return int(job.lease_until.timestamp() + job.eta_s)


def _seconds(at: Any) -> int | None:
    return int(at.timestamp()) if at else None
