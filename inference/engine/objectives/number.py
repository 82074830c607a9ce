"""A number: regression."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from tilth.contract.learning import Loss
from tilth.contract.messages import Prediction
from torch import Tensor

from inference.engine.errors import JobFault
from inference.engine.objectives.losses import NUMBER, suited
from inference.engine.objectives.objective import Judged, Settled

COVERAGE = 0.9
"""Of the interval that an answer carries."""
ROUNDING = 1e-12
"""Of the greatest target: a deviation below it is that of equal numbers whose mean was rounded."""


@dataclass(frozen=True)
class Number:
    """Targets are numbers [rows], NaN where there is none; outputs [rows, 1] are in standard deviations of training."""

    mean: float
    deviation: float
    selects: str = "r2"
    loss_name: Loss = Loss.HUBER

    @classmethod
    def of(cls, values: Sequence[float]) -> "Number":
        """The scale of the training rows; raises JobFault for a target that never changes."""
        numbers = torch.tensor(values, dtype=torch.double)
        deviation = float(numbers.std(unbiased=False)) if len(numbers) else 0.0
        if not deviation > ROUNDING * max(map(abs, values), default=0.0):
            raise JobFault(
                "constant_target",
                f"the target of all {len(values)} training rows is {values[0] if len(values) else 'missing'};"
                " give rows whose targets differ",
            )
        return cls(float(numbers.mean()), deviation)

    @property
    def width(self) -> int:
        """One."""
        return 1

    @property
    def note(self) -> str:
        """Of the interval."""
        return f"The interval beside an answer is as wide as it must be to hold {COVERAGE:.0%} of validation's targets."

    def known(self, targets: Tensor) -> Tensor:
        """Rows with a number."""
        return ~targets.isnan()

    def weights_of(self, targets: Tensor) -> Tensor:
        """All alike."""
        return torch.ones(len(targets))

    def learnable(self, targets: Tensor) -> Tensor:
        """In standard deviations of training."""
        return (targets.double() - self.mean) / self.deviation

    def learned_by(self, loss: Loss | None, balance: Tensor | None) -> Self:
        """With another loss; raises JobFault where labels are to be balanced."""
        if balance is not None:
            raise JobFault("loss_unsuited", "class_weights balance labels; the target of this job is a number")
        return replace(self, loss_name=suited(loss or Loss.HUBER, NUMBER))

    def loss(self, outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """By name, in deviations."""
        return NUMBER[self.loss_name](outputs[:, 0], self.learnable(targets).to(outputs.dtype), smoothing)

    def apart(self, one: Tensor, other: Tensor) -> Tensor:
        """Of two normal distributions one deviation wide."""
        return (one - other)[:, 0].square() / 2

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        """R², the share of the variance that is explained."""
        return float(_r2(outputs[:, 0].double()[None], self.learnable(targets)[None]).item())

    def resampled(self, outputs: Tensor, targets: Tensor, draws: Tensor) -> Tensor:
        """R² of each draw."""
        return _r2(outputs[:, 0].double()[draws], self.learnable(targets)[draws])

    def headroom(self, outputs: Tensor, targets: Tensor) -> float:
        """What is missing to one."""
        return 1 - self.score(outputs, targets)

    def constant(self, targets: Tensor) -> Tensor:
        """The mean."""
        return torch.zeros(1)

    def tempered(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """As they are: a number says nothing of how sure it is."""
        return outputs

    def calibrate(self, outputs: Tensor, targets: Tensor) -> Settled:
        """Half the width of an interval that holds COVERAGE of new rows (split conformal: Lei et al. 2018)."""
        missed = (outputs[:, 0].double() - self.learnable(targets)).abs().sort().values
        place = math.ceil((len(missed) + 1) * COVERAGE) - 1
        return {"half_width": missed[min(place, len(missed) - 1)].item() * self.deviation}

    def judge(self, outputs: Tensor, targets: Tensor, settled: Settled) -> Judged:
        """R², MAE and RMSE in the target's own unit, and how many targets lie in their intervals."""
        known = self.known(targets)
        if not known.any():
            return Judged({})
        missed = (self._own(outputs[known]) - targets[known].double()).abs()
        inside = missed <= float(str(settled["half_width"]))
        found = {
            "r2": self.score(outputs[known], targets[known]),
            "mae": missed.mean().item(),
            "rmse": missed.square().mean().sqrt().item(),
            "coverage": inside.double().mean().item(),
        }
        return Judged({name: round(value, 6) for name, value in found.items()})

    def answer(self, outputs: Tensor, settled: Settled) -> list[Prediction]:
        """The number, with the interval that holds COVERAGE of new rows."""
        half = float(str(settled.get("half_width", 0.0)))
        return [
            Prediction(output=value, interval=(value - half, value + half)) for value in self._own(outputs).tolist()
        ]

    def _own(self, outputs: Tensor) -> Tensor:
        return outputs[:, 0].double() * self.deviation + self.mean


def _r2(found: Tensor, targets: Tensor) -> Tensor:
    """[draws] of values [draws, rows]."""
    spread = (targets - targets.mean(1, keepdim=True)).square().sum(1).clamp(min=1e-12)
    return 1 - (found - targets).square().sum(1) / spread
