"""Where rows are few, the chosen way learns once more from all of them, validation's included."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch

from inference.engine.candidate import Candidate, Lesson, Model, Outcome, Session
from inference.engine.errors import BudgetReached, JobFault
from inference.engine.ladder import Climbed
from inference.engine.limits import ran_out
from inference.engine.spill import joined, picked

FEW = 2000
"""Rows of training, up to which those of validation are worth learning from, too."""


@runtime_checkable
class Relearns(Protocol):
    """A candidate that can do once more what it did, on other rows."""

    def again(self) -> float:
        """Work that it expects of that, in row passes."""

    def relearned(self, session: Session, outcome: Outcome, lesson: Lesson) -> Model:
        """By what ``outcome`` settled, from the lesson's training rows; there is no validation. Raises as learning."""


def expected(candidates: Sequence[Candidate], lesson: Lesson) -> float:
    """Row passes of learning once more, as if the dearest way were chosen."""
    again = [each.again() for each in candidates if isinstance(each, Relearns)]
    return max(again, default=0.0) if len(lesson.train) <= FEW else 0.0


def learned_again(candidates: Sequence[Candidate], lesson: Lesson, climbed: Climbed, session: Session) -> Climbed:
    """The same choice, learned from training and validation; how good it is, only the test split still tells.

    Validation's outputs stay those of the model that had not seen them, so calibration stays honest.
    """
    chosen = next(each for each in candidates if each.name == climbed.outcome.name)
    if len(lesson.train) > FEW or not isinstance(chosen, Relearns):
        return climbed
    try:
        model = chosen.relearned(session, climbed.outcome, whole(lesson))
    except (BudgetReached, JobFault, MemoryError, RuntimeError) as why:
        if not isinstance(why, (BudgetReached, JobFault)) and not ran_out(why):
            raise
        session.reporter.note(f"The model is that of the training rows alone: {why}.")
        return climbed
    told = f"{climbed.reason}; then it learned once more, from validation's rows, too"
    return replace(climbed, outcome=replace(climbed.outcome, model=model), reason=told)


def whole(lesson: Lesson) -> Lesson:
    """Its training rows and those of validation whose targets are known, all for training."""
    known = lesson.known
    return replace(
        lesson,
        train=joined(lesson.train, picked(lesson.validation, known)),
        train_targets=torch.cat([lesson.train_targets, lesson.validation_targets[known]]),
        validation=(),
        validation_targets=lesson.validation_targets[:0],
    )
