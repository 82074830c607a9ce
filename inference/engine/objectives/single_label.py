"""One label of a fixed set, or none of them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

import torch
from tilth.contract.errors import VerticalError
from tilth.contract.learning import Loss
from tilth.contract.messages import Prediction
from torch import Tensor

from inference.engine.calibrate import SCORES, ScopeRule, scope_report, scope_rule, temperature
from inference.engine.errors import JobFault
from inference.engine.evaluate import error_upper_bound
from inference.engine.objectives.losses import LABEL, balanced, suited
from inference.engine.objectives.metrics import BINARY, CHOOSING, SINGLE, resampled_binary
from inference.engine.objectives.objective import Judged, Settled

UNKNOWN = -1


@dataclass(frozen=True)
class SingleLabel:
    """Targets are class numbers [rows], UNKNOWN for a row that has none of the labels; outputs are logits."""

    labels: tuple[str, ...]
    selects: str = "accuracy"
    loss_name: Loss = Loss.CROSS_ENTROPY
    weights: tuple[float, ...] = ()
    """Of each label in the loss; empty: all one."""

    def __post_init__(self) -> None:
        if self.selects not in CHOOSING:
            raise VerticalError(f"{self.selects!r} cannot choose among models of labels; can: {', '.join(CHOOSING)}")
        if self.selects in BINARY and self.width != 2:
            raise JobFault(
                "not_binary",
                f"{self.selects} judges two labels; the training rows hold {self.width}: {self.labels[:5]}",
            )

    @property
    def width(self) -> int:
        """One logit for each label."""
        return len(self.labels)

    @property
    def note(self) -> str:
        """Of probabilities and scope."""
        return (
            "Probabilities are calibrated by one temperature on the validation split. A row is out of scope when its"
            " score falls below a threshold at which 5 % of in-scope validation rows fall."
        ) + (" All labels weighed the same while it learned, however rare they are." if self.weights else "")

    def targets(self, labels: Iterable[str]) -> Tensor:
        """Class numbers; UNKNOWN for a label that is none of these."""
        index = {label: at for at, label in enumerate(self.labels)}
        return torch.tensor([index.get(label, UNKNOWN) for label in labels], dtype=torch.long)

    def known(self, targets: Tensor) -> Tensor:
        """Rows with one of the labels."""
        return targets >= 0

    def learned_by(self, loss: Loss | None, balance: Tensor | None) -> Self:
        """With another loss; ``balance``: targets whose rare labels shall weigh as much as the others."""
        weights = () if balance is None else balanced(balance, self.width)
        return replace(self, loss_name=suited(loss or Loss.CROSS_ENTROPY, LABEL), weights=weights)

    def weights_of(self, targets: Tensor) -> Tensor:
        """By label."""
        return (
            torch.tensor(self.weights, device=targets.device)[targets]
            if self.weights
            else torch.ones(len(targets), device=targets.device)
        )

    def learnable(self, targets: Tensor) -> Tensor:
        """Class numbers."""
        return targets

    def loss(self, outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """By name, each row with its label's weight."""
        found = LABEL[self.loss_name](outputs, targets, smoothing)
        return found * self.weights_of(targets).to(found.dtype)

    def apart(self, one: Tensor, other: Tensor) -> Tensor:
        """Of two distributions over the labels, in nats."""
        first, second = one.log_softmax(1), other.log_softmax(1)
        return ((first.exp() - second.exp()) * (first - second)).sum(1) / 2

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        """The metric that chooses."""
        return {**SINGLE, **BINARY}[self.selects](outputs, targets)

    def resampled(self, outputs: Tensor, targets: Tensor, draws: Tensor) -> Tensor:
        """Of accuracy a mean of hits, of two labels by counts; any other metric is taken again for each draw."""
        if self.selects == "accuracy":
            return (outputs.argmax(1) == targets).double()[draws].mean(1)
        if self.selects in BINARY:
            return resampled_binary(self.selects, outputs, targets, draws)
        scores = [self.score(outputs[draw], targets[draw]) for draw in draws]
        return torch.tensor(scores, dtype=torch.double)

    def headroom(self, outputs: Tensor, targets: Tensor) -> float:
        """Of accuracy the error's upper bound (Wilson 1927); of others what is missing to one."""
        if self.selects == "accuracy":
            return error_upper_bound(int((outputs.argmax(1) != targets).sum()), len(targets))
        return 1 - self.score(outputs, targets)

    def constant(self, targets: Tensor) -> Tensor:
        """Logarithms of the labels' shares."""
        counts = torch.bincount(targets[targets >= 0], minlength=self.width).float()
        return (counts.clamp(min=0.5) / counts.sum().clamp(min=1)).log()

    def tempered(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """By one temperature."""
        return outputs.double() / temperature(outputs, targets)

    def calibrate(self, outputs: Tensor, targets: Tensor) -> Settled:
        """A temperature by the known rows, and the rule for what is out of scope by all."""
        known = self.known(targets)
        heat = temperature(outputs[known], targets[known])
        rule = scope_rule(outputs[known] / heat, outputs[~known] / heat)
        return {"temperature": heat, "scope_score": rule.score, "scope_threshold": rule.threshold}

    def judge(self, outputs: Tensor, targets: Tensor, settled: Settled) -> Judged:
        """After the temperature; scope on the unknown rows, if there are any."""
        known, logits = self.known(targets), self._scaled(outputs, settled)
        if not known.any():
            return Judged({}, {"scope": None})
        metrics = {**SINGLE, **(BINARY if self.width == 2 else {})}
        found = {name: round(metric(logits[known], targets[known]), 6) for name, metric in metrics.items()}
        return Judged(found, {"scope": None if known.all() else _scope(logits, known, settled)})

    def answer(self, outputs: Tensor, settled: Settled) -> list[Prediction]:
        """Label, calibrated probabilities and the out-of-scope flag."""
        scaled = self._scaled(outputs.double(), settled)
        inside = SCORES[str(settled.get("scope_score", "probability"))](scaled)
        outside = inside < float(str(settled.get("scope_threshold", "-inf")))
        return [
            Prediction(
                output=self.labels[max(range(len(row)), key=row.__getitem__)],
                score=max(row),
                probabilities=dict(zip(self.labels, row, strict=True)),
                out_of_scope=out,
            )
            for row, out in zip(scaled.softmax(1).tolist(), outside.tolist(), strict=True)
        ]

    def _scaled(self, outputs: Tensor, settled: Settled) -> Tensor:
        return outputs / float(str(settled.get("temperature", 1.0)))


def _scope(logits: Tensor, known: Tensor, settled: Settled) -> dict[str, float]:
    rule = ScopeRule(str(settled["scope_score"]), float(str(settled["scope_threshold"])))
    return {name: round(value, 6) for name, value in scope_report(logits[known], logits[~known], rule).items()}
