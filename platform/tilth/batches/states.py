"""The states of a batch, in OpenAI's words, and what it can be asked for."""

from enum import StrEnum


class State(StrEnum):
    """Where a batch stands."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    CANCELLING = "cancelling"
    FINALIZING = "finalizing"
    """Its files are being put together."""
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


ENDED = (State.COMPLETED, State.FAILED, State.EXPIRED, State.CANCELLED)
AT_WORK = (State.IN_PROGRESS, State.CANCELLING, State.FINALIZING)
"""The runner has something to do for it."""


class Endpoint(StrEnum):
    """What the lines of a batch may ask."""

    PREDICTIONS = "/v1/predictions"
    EMBEDDINGS = "/v1/embeddings"
