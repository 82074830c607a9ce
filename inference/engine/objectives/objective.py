"""An objective: everything that depends on the kind of target, and on nothing else of a task."""

from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from pydantic import JsonValue
from tilth.contract.learning import Loss
from tilth.contract.messages import Prediction
from torch import Tensor

Settled = dict[str, JsonValue]
"""What calibration fixes, e.g. a temperature: plain data, saved with the model."""


@dataclass(frozen=True)
class Judged:
    """Metrics by name, on the rows that have a known target, and what else the report tells."""

    metrics: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)
    decided: Tensor | None = None
    """[known rows, width]: outputs of which the metric that chooses was taken; None: as they came."""


class Objective(Protocol):
    """One kind of target. Outputs are [rows, width] as a model gives them; targets have rows first."""

    @property
    def selects(self) -> str:
        """Name of the metric that chooses; higher is better."""

    @property
    def width(self) -> int:
        """Outputs of a row."""

    @property
    def note(self) -> str:
        """What an answer means, for the model card."""

    def known(self, targets: Tensor) -> Tensor:
        """[rows] bool: which rows can be judged."""

    def learned_by(self, loss: Loss | None, balance: Tensor | None) -> Self:
        """With a loss by name (None: its own); ``balance``: targets whose labels shall all weigh the same.

        Raises JobFault for what does not suit it.
        """

    def weights_of(self, targets: Tensor) -> Tensor:
        """[rows]: how much each known row counts in the loss; one where nothing else was asked for."""

    def learnable(self, targets: Tensor) -> Tensor:
        """[rows]: what a learner that knows no objective fits, in the unit of the outputs."""

    def loss(self, outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """[rows], of known rows."""

    def apart(self, one: Tensor, other: Tensor) -> Tensor:
        """[rows]: how differently two outputs of each row answer; the mean of both divergences (Kullback 1951)."""

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        """The metric that chooses, of known rows."""

    def resampled(self, outputs: Tensor, targets: Tensor, draws: Tensor) -> Tensor:
        """[resamples]: the score of each draw [resamples, rows] of row numbers, with replacement."""

    def headroom(self, outputs: Tensor, targets: Tensor) -> float:
        """The most that any other model could score above this one, at the upper end of its 95 % interval."""

    def constant(self, targets: Tensor) -> Tensor:
        """[width]: what to answer knowing no more than the targets of training; the least a model must beat."""

    def tempered(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs of known rows as sure as their targets bear out."""

    def calibrate(self, outputs: Tensor, targets: Tensor) -> Settled:
        """What validation fixes; rows that are not known count where they can."""

    def judge(self, outputs: Tensor, targets: Tensor, settled: Settled) -> Judged:
        """Every metric, after calibration."""

    def answer(self, outputs: Tensor, settled: Settled) -> list[Prediction]:
        """What customers get."""
