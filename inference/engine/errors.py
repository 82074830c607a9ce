"""The engine's tree of errors: faults of a job, told to the customer, and the ways a job is stopped."""

from typing import Literal


class EngineError(Exception):
    """Something the engine tells; everything else is a bug."""


class JobFault(EngineError):
    """The job cannot succeed: a stable code, and a sentence that names what was found and what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Stopped(EngineError):
    """The customer asked to pause or cancel; raised between two steps, after what must be kept was kept."""

    def __init__(self, mode: Literal["pause", "cancel"], step: int) -> None:
        super().__init__(mode)
        self.mode = mode
        self.step = step


class BudgetReached(EngineError):
    """The device time that the budget covers is used up; the best so far is the result."""


def diverged(said: str) -> JobFault:
    """The fault of numbers that ran away."""
    return JobFault("diverged", f"{said}; lower learning_rate_multiplier")
