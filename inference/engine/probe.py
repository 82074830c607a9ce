"""The second rung: a frozen base, features computed once, and multinomial logistic regression on top."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from inference.adapters.pooling import mean_pooled
from inference.engine.base_models import Base
from inference.engine.batches import Batch, by_length
from inference.engine.evaluate import accuracy
from inference.engine.precision import autocast
from inference.engine.task import Examples

STRENGTHS = (3.0, 10.0, 30.0, 100.0, 300.0)
"""Inverse regularisation C, as scikit-learn counts it; chosen on validation."""
FEATURE_BATCH = 64
MAX_ITERATIONS = 60

LIVE_RATE = 0.1
"""Adam's learning rate for the head that learns beside the features; unit vectors want large weights."""

Tick = Callable[[int], None]
"""Called after each batch with the rows done; may raise Stopped or BudgetReached."""


@dataclass(frozen=True)
class Head:
    """A linear head: weight [classes, hidden], bias [classes]."""

    weight: Tensor
    bias: Tensor

    def logits(self, vectors: Tensor) -> Tensor:
        """[rows, classes] of vectors [rows, hidden]."""
        return vectors @ self.weight.T + self.bias


class LiveHead:
    """A head that learns from each batch of features as it comes: a loss to show at once, and where the fit starts."""

    def __init__(self, hidden: int, classes: int) -> None:
        self._linear = nn.Linear(hidden, classes)
        nn.init.zeros_(self._linear.weight)
        nn.init.zeros_(self._linear.bias)
        self._optimiser = torch.optim.Adam(self._linear.parameters(), lr=LIVE_RATE)

    def step(self, vectors: Tensor, targets: Tensor) -> float:
        """One step on vectors [batch, hidden]; the batch's mean loss before it."""
        loss = functional.cross_entropy(self._linear(vectors), targets)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        return float(loss.item())

    def head(self) -> Head:
        """What it has learned."""
        return Head(self._linear.weight.detach(), self._linear.bias.detach())


def frozen_features(base: Base, examples: Examples, tick: Tick) -> Tensor:
    """Mean-pooled unit vectors [rows, hidden] of the frozen base."""
    vectors = torch.zeros(len(examples), base.hidden_size)
    for batch, found in feature_batches(base, by_length(examples, FEATURE_BATCH)):
        vectors[batch.rows] = found
        tick(len(batch.rows))
    return vectors


def feature_batches(base: Base, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Tensor]]:
    """Each batch with its vectors [batch, hidden]."""
    for batch in batches:
        with torch.no_grad(), autocast():
            hidden = base.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        yield batch, mean_pooled(hidden.float(), batch.attention_mask)


def fit_probe(train: Tensor, targets: Tensor, valid: Tensor, valid_targets: Tensor, start: Head) -> tuple[Head, float]:
    """The head whose strength scores best on validation (the stronger penalty on a tie), and that C."""
    best: tuple[float, Head, float] | None = None
    for strength in STRENGTHS:
        start = fit_logistic(train, targets, strength, start)
        score = accuracy(start.logits(valid).argmax(1), valid_targets)
        if best is None or score > best[0]:
            best = (score, start, strength)
    if best is None:
        raise AssertionError("STRENGTHS is not empty")
    return best[1], best[2]


def fit_logistic(vectors: Tensor, targets: Tensor, strength: float, start: Head) -> Head:
    """Multinomial logistic regression by L-BFGS; the penalty is ‖W‖² / (2·C·n) beside the mean cross-entropy."""
    weight, bias = start.weight.clone().requires_grad_(), start.bias.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=MAX_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        penalty = weight.square().sum() / (2 * strength * len(targets))
        loss = functional.cross_entropy(vectors @ weight.T + bias, targets) + penalty
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return Head(weight.detach(), bias.detach())
