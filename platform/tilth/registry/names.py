"""The names of fine-tuned models and of their checkpoints."""

from uuid import UUID


def model_name(*, base_model: str, organisation: str, suffix: str, job: UUID) -> str:
    """``ft:<base>:<organisation>:<suffix>:<8 hex>``; the same for a job whenever it is asked."""
    return f"ft:{base_model}:{organisation}:{suffix}:{job.hex[-8:]}"


def checkpoint_name(model: str, step: int) -> str:
    """``<model>:ckpt-step-<n>``."""
    return f"{model}:ckpt-step-{step}"
