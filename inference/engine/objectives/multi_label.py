"""Any number of labels of a fixed set, or none: each is decided by itself."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from tilth.contract.errors import VerticalError
from tilth.contract.learning import Loss
from tilth.contract.messages import Prediction
from torch import Tensor

from inference.engine.errors import JobFault
from inference.engine.objectives.losses import MANY, suited
from inference.engine.objectives.objective import Judged, Settled
from inference.engine.objectives.sets import CHOOSING, SETS, heat_of, odds_between, resampled, thresholds

MOST_WEIGHT = 100.0
"""Of a rare label's rows, where labels are balanced."""


@dataclass(frozen=True)
class MultiLabel:
    """Targets [rows, labels] are 1 or 0, NaN throughout a row that cannot be judged; outputs are log-odds.

    Which model is best is judged at even odds; the answers' thresholds are chosen afterwards, on validation.
    """

    labels: tuple[str, ...]
    selects: str = "micro_f1"
    loss_name: Loss = Loss.CROSS_ENTROPY
    weights: tuple[float, ...] = ()
    """Of rows that have a label, in its part of the loss; empty: all one."""

    def __post_init__(self) -> None:
        if self.selects not in CHOOSING:
            raise VerticalError(f"{self.selects!r} cannot choose among models of several labels; can: {CHOOSING}")
        if not self.labels:
            raise JobFault("no_label", "no training row has a label; give rows of at least one")

    @property
    def width(self) -> int:
        """One output for each label."""
        return len(self.labels)

    @property
    def note(self) -> str:
        """Of probabilities and thresholds."""
        return (
            "Each label has a probability of its own, calibrated by one temperature on the validation split, and a"
            " threshold from which it is answered: the one that gave its F1 there, or for rare labels all labels' F1,"
            " the highest value. A row below all thresholds has none of the labels."
        ) + (" A label's rows weighed as much as all others while it learned." if self.weights else "")

    def targets(self, sets: Iterable[Sequence[str] | None]) -> Tensor:
        """[rows, labels]; NaN for a row that is None or has a label that is none of these."""
        index = {label: at for at, label in enumerate(self.labels)}
        rows = list(sets)
        made = torch.zeros(len(rows), self.width)
        for row, labels in zip(made, rows, strict=True):
            if labels is None or any(label not in index for label in labels):
                row.fill_(float("nan"))
            else:
                row[[index[label] for label in labels]] = 1.0
        return made

    def known(self, targets: Tensor) -> Tensor:
        """Rows whose labels are known."""
        return ~targets.isnan().any(1)

    def learned_by(self, loss: Loss | None, balance: Tensor | None) -> Self:
        """With another loss; ``balance``: targets of which each label's rows shall weigh as much as the others."""
        weights: tuple[float, ...] = ()
        if balance is not None:
            there = balance[self.known(balance)].double()
            have = there.sum(0)
            weights = tuple(((len(there) - have) / have.clamp(min=1)).clamp(1 / MOST_WEIGHT, MOST_WEIGHT).tolist())
        return replace(self, loss_name=suited(loss or Loss.CROSS_ENTROPY, MANY), weights=weights)

    def weights_of(self, targets: Tensor) -> Tensor:
        """All alike: what is balanced here are labels, not rows."""
        return torch.ones(len(targets))

    def learnable(self, targets: Tensor) -> Tensor:
        """As they are."""
        return targets

    def loss(self, outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """The sum over the labels, so that a linear model is one logistic regression for each."""
        wanted = targets.to(outputs.dtype)
        found = MANY[self.loss_name](outputs, wanted, smoothing)
        if self.weights:
            found = found * torch.where(
                wanted == 1, torch.tensor(self.weights, dtype=found.dtype, device=found.device), 1.0
            )
        return found.sum(1)

    def apart(self, one: Tensor, other: Tensor) -> Tensor:
        """The sum over the labels, each yes or no, in nats."""
        return ((one.sigmoid() - other.sigmoid()) * (one - other)).sum(1) / 2

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        """The metric that chooses, at even odds."""
        return SETS[self.selects](outputs, targets)

    def resampled(self, outputs: Tensor, targets: Tensor, draws: Tensor) -> Tensor:
        """By counts of hits, of rows or of labels."""
        return resampled(self.selects, outputs, targets, draws)

    def headroom(self, outputs: Tensor, targets: Tensor) -> float:
        """What is missing to one."""
        return 1 - self.score(outputs, targets)

    def constant(self, targets: Tensor) -> Tensor:
        """Log-odds of the labels' shares, shifted so that as many common ones are answered as pay (micro-F1)."""
        counts = targets[self.known(targets)].double().sum(0)
        rows = max(1, int(self.known(targets).sum()))
        often, order = counts.sort(descending=True, stable=True)
        f1 = 2 * often.cumsum(0) / (rows * torch.arange(1, self.width + 1) + counts.sum()).clamp(min=1)
        odds = ((counts + 0.5) / (rows - counts + 0.5)).log()
        last = odds[order[int(f1.argmax())]]
        rest = odds[odds < last]
        cut = (last + rest.max()) / 2 if len(rest) else last - 1
        return (odds - cut).float()

    def tempered(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """By one temperature."""
        return outputs.double() / heat_of(outputs.double(), targets.double())

    def calibrate(self, outputs: Tensor, targets: Tensor) -> Settled:
        """One temperature, and a threshold for each label, by the known rows."""
        known = self.known(targets)
        found, wanted = outputs[known].double(), targets[known].double()
        heat = heat_of(found, wanted)
        return {"temperature": heat, "thresholds": thresholds((found / heat).sigmoid(), wanted).tolist()}

    def judge(self, outputs: Tensor, targets: Tensor, settled: Settled) -> Judged:
        """Every metric after calibration; those of sets at the thresholds, and how each label fares."""
        known = self.known(targets)
        if not known.any():
            return Judged({})
        scaled, wanted = self._scaled(outputs[known], settled), targets[known]
        decided = odds_between(scaled, self._cuts(settled))
        ranked = {"lrap", "mean_average_precision", "loss"}
        judged = {name: scaled if name in ranked else decided for name in SETS}
        found = {name: round(metric(judged[name], wanted), 6) for name, metric in SETS.items()}
        return Judged(found, {"by_label": self._by_label(decided, wanted)}, judged[self.selects])

    def answer(self, outputs: Tensor, settled: Settled) -> list[Prediction]:
        """The labels from their thresholds on, the likeliest first, and the probability of each."""
        shares, cuts = self._scaled(outputs, settled).sigmoid(), self._cuts(settled)
        return [
            self._prediction(row, over) for row, over in zip(shares.tolist(), (shares >= cuts).tolist(), strict=True)
        ]

    def _prediction(self, shares: list[float], over: list[bool]) -> Prediction:
        chosen = sorted((at for at, is_over in enumerate(over) if is_over), key=lambda at: -shares[at])
        return Prediction(
            output=[self.labels[at] for at in chosen], probabilities=dict(zip(self.labels, shares, strict=True))
        )

    def _by_label(self, decided: Tensor, targets: Tensor) -> list[dict[str, object]]:
        """Rows of test that have it, precision and recall."""
        said, there = decided >= 0, targets == 1
        hit = (said & there).sum(0).tolist()
        return [
            {"label": label, "rows": has, "precision": _share(hits, says), "recall": _share(hits, has)}
            for label, hits, says, has in zip(
                self.labels, hit, said.sum(0).tolist(), there.sum(0).tolist(), strict=True
            )
        ]

    def _scaled(self, outputs: Tensor, settled: Settled) -> Tensor:
        return outputs.double() / float(str(settled.get("temperature", 1.0)))

    def _cuts(self, settled: Settled) -> Tensor:
        """[labels]: probabilities."""
        return torch.tensor(settled.get("thresholds", [0.5] * self.width), dtype=torch.double)


def _share(hits: int, of: int) -> float | None:
    return round(hits / of, 6) if of else None
