"""How two outcomes are compared: a paired bootstrap on the rows that neither model has seen."""

from dataclasses import dataclass

import torch
from torch import Tensor

from inference.engine.candidate import Lesson, Outcome
from inference.engine.evaluate import interval

LEAST_GAIN = 0.001
"""A gain under 0.1 points goes to the cheaper one."""
SURE = 500
"""Judged rows, below which a score tells models apart by luck; how sure they are of the right answers tells more."""


@dataclass(frozen=True)
class Comparison:
    """Gain of the dearer over the cheaper on the same rows, with its 95 % interval."""

    gain: float
    low: float
    high: float
    rows: int
    """By which both were judged."""
    loss_gain: float
    """By how much the dearer one's loss is lower on them, each at its own temperature; in nats of labels."""

    @property
    def error(self) -> float:
        """The gain's standard error, by the width of its interval."""
        return (self.high - self.low) / 3.92

    @property
    def few(self) -> bool:
        """Whether too few rows judged for the score to decide."""
        return self.rows < SURE

    @property
    def worth_it(self) -> bool:
        """Whether the dearer one is kept: by its score, or by its loss where that cannot tell."""
        return self.no_loss and self.loss_gain >= LEAST_GAIN if self.few else self.gain >= LEAST_GAIN

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

    def loss(outputs: Tensor) -> float:
        return float(objective.loss(objective.tempered(outputs, targets), targets).mean().item())

    gain = objective.score(new, targets) - objective.score(old, targets)
    return Comparison(gain, *interval(gained, len(targets)), len(targets), loss(old) - loss(new))


def unseen(outcome: Outcome, lesson: Lesson, *, crossed: bool) -> tuple[Tensor, Tensor]:
    """(outputs, targets) of the known rows that a model is judged by."""
    known = lesson.known
    outputs, targets = outcome.valid[known], lesson.validation_targets[known]
    if crossed and outcome.crossed is not None:
        return torch.cat([outcome.crossed, outputs]), torch.cat([lesson.train_targets, targets])
    return outputs, targets
