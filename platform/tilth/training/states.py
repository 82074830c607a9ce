"""The states of a job and which of them belong together."""

from enum import StrEnum


class State(StrEnum):
    """Where a job stands; LEASED is given to a trainer that has not reported yet."""

    VALIDATING = "validating"
    QUEUED = "queued"
    LEASED = "leased"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Stop(StrEnum):
    """What the customer asked of a job that has a trainer."""

    NONE = ""
    PAUSE = "pause"
    RESTART = "restart"
    """Paused, then resumed before the pause was done: goes back to the queue at once."""
    CANCEL = "cancel"


ACTIVE = (State.LEASED, State.RUNNING)
"""A trainer has it."""
WAITING = (State.VALIDATING, State.QUEUED, State.PAUSED)
"""No trainer has it."""
ENDED = (State.SUCCEEDED, State.FAILED, State.CANCELLED)

MAX_LOSSES = 5
"""Attempts lost without a new checkpoint between them, after which a job fails."""
