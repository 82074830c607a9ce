"""How two outcomes are compared: a paired bootstrap on the rows that neither model has seen."""

from dataclasses import dataclass

import torch
from torch import Tensor

from inference.engine.candidate import Lesson, Outcome
from inference.engine.evaluate import interval

LEAST_GAIN = 0.001
"""A gain under 0.1 points goes to the cheaper one."""
SURE = 500
"""Judged rows, below which a gain must exceed its standard error, too: the best of some epochs is often luck there.

The one-standard-error rule (Breiman et al. 1984, section 3.4.3).
"""


@dataclass(frozen=True)
class Comparison:
    """Gain of the dearer over the cheaper on the same rows, with its 95 % interval."""

    gain: float
    low: float
    high: float
    rows: int
    """By which both were judged."""

    @property
    def error(self) -> float:
        """The gain's standard error, by the width of its interval."""
        return (self.high - self.low) / 3.92

    @property
    def worth_it(self) -> bool:
        """Whether the dearer one is kept."""
        return self.gain >= LEAST_GAIN and (self.rows >= SURE or self.gain > self.error)

    @property
    def no_loss(self) -> bool:
        """Whether the dearer one is not surely worse: within the gain's standard error."""
        return self.gain >= -self.error


def compare(dearer: Outcome, cheaper: Outcome, lesson: Lesson) -> Comparison:
    """Of known rows: validation's, and training's too where both were cross-fitted."""
    crossed = dearer.crossed is not None and cheaper.crossed is not None
    new, targets = unseen(dearer, lesson, crossed=crossed)
    old, _ = unseen(cheaper, lesson, crossed=crossed)
    objective = lesson.objective

    def gained(draws: Tensor) -> Tensor:
        return objective.resampled(new, targets, draws) - objective.resampled(old, targets, draws)

    gain = objective.score(new, targets) - objective.score(old, targets)
    return Comparison(gain, *interval(gained, len(targets)), len(targets))


def unseen(outcome: Outcome, lesson: Lesson, *, crossed: bool) -> tuple[Tensor, Tensor]:
    """(outputs, targets) of the known rows that a model is judged by."""
    known = lesson.known
    outputs, targets = outcome.valid[known], lesson.validation_targets[known]
    if crossed and outcome.crossed is not None:
        return torch.cat([outcome.crossed, outputs]), torch.cat([lesson.train_targets, targets])
    return outputs, targets
