"""Linear models over features that are computed already: of rows, and of what labels are called."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inference.engine.heads import Head
from inference.engine.memory import FITTED
from inference.engine.objectives.objective import Objective

STRENGTHS = (3.0, 10.0, 30.0, 100.0, 300.0)
"""Inverse regularisation C, as scikit-learn counts it; chosen on validation."""
MAX_ITERATIONS = 60
LIVE_RATE = 0.1
"""Adam's learning rate for the head that learns beside the features; unit vectors want large weights."""


class LiveHead:
    """A head that learns from each batch of features as it comes: a loss to show at once, and where the fit starts."""

    def __init__(self, hidden: int, objective: Objective) -> None:
        self._objective = objective
        self._linear = nn.Linear(hidden, objective.width)
        nn.init.zeros_(self._linear.weight)
        nn.init.zeros_(self._linear.bias)
        self._optimiser = torch.optim.Adam(self._linear.parameters(), lr=LIVE_RATE)

    def step(self, vectors: Tensor, targets: Tensor) -> float:
        """One step on vectors [batch, hidden]; the batch's mean loss before it."""
        loss = self._objective.loss(self._linear(vectors), targets).mean()
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        return float(loss.item())

    def head(self) -> Head:
        """What it has learned."""
        return Head(self._linear.weight.detach(), self._linear.bias.detach())


@dataclass(frozen=True)
class Taught:
    """What a head learns from: vectors [rows, hidden] and targets [rows]; ``named``: both of what labels are called."""

    vectors: Tensor
    targets: Tensor
    named: tuple[Tensor, Tensor] | None = None

    def alone(self) -> "Taught":
        """Without names."""
        return Taught(self.vectors, self.targets)

    def of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(vectors, targets) of some rows, and of all names."""
        return replace(self, vectors=self.vectors[rows], targets=self.targets[rows]).all()

    def all(self) -> tuple[Tensor, Tensor]:
        """(vectors, targets) of rows, then of names; only few rows have names, so that a copy of them is small."""
        if self.named is None:
            return self.vectors, self.targets
        vectors, targets = self.named
        return torch.cat([self.vectors, vectors]), torch.cat([self.targets, targets])


@dataclass(frozen=True)
class Fitted:
    """A head, the strength that scored best on validation, and that score."""

    head: Head
    strength: float
    score: float


def fit_probe(taught: Taught, valid: Tensor, valid_targets: Tensor, start: Head, objective: Objective) -> Fitted:
    """The head whose strength scores best on validation (the stronger penalty on a tie)."""
    best: Fitted | None = None
    for strength in STRENGTHS:
        start = fit_linear(*taught.all(), strength, start, objective)
        score = objective.score(start.logits(valid), valid_targets)
        if best is None or score > best.score:
            best = Fitted(start, strength, score)
    if best is None:
        raise AssertionError("STRENGTHS is not empty")
    return best


def fit_linear(
    vectors: Tensor, targets: Tensor, strength: float, start: Head, objective: Objective, *, least_change: float = 1e-9
) -> Head:
    """The objective's linear model by L-BFGS; the penalty is ‖W‖² / (2·C·n) beside the mean loss.

    Ends at MAX_ITERATIONS, or when a step changes neither loss nor weights by ``least_change``.

    Of labels this is multinomial logistic regression with scikit-learn's C.
    """
    weight, bias = start.weight.clone().requires_grad_(), start.bias.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=MAX_ITERATIONS, tolerance_change=least_change, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        whole = weight.square().sum() / (2 * strength * len(targets))
        whole.backward()  # type: ignore[no-untyped-call]
        for part, wanted in zip(torch.split(vectors, FITTED), torch.split(targets, FITTED), strict=True):
            loss = objective.loss(part @ weight.T + bias, wanted).mean() * (len(part) / len(vectors))
            loss.backward()  # type: ignore[no-untyped-call]
            whole = whole.detach() + loss.detach()
        return whole

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return Head(weight.detach(), bias.detach())
