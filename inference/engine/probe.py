"""The second rung: a frozen base, features computed once, and multinomial logistic regression on top."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from inference.adapters.pooling import mean_pooled
from inference.engine.base_models import Base
from inference.engine.batches import by_length
from inference.engine.evaluate import accuracy
from inference.engine.precision import autocast
from inference.engine.task import Examples

STRENGTHS = (3.0, 10.0, 30.0, 100.0)
"""Inverse regularisation C, as scikit-learn counts it; chosen on validation."""
BATCH = 64
MAX_ITERATIONS = 60

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


@torch.no_grad()
def frozen_features(base: Base, examples: Examples, tick: Tick) -> Tensor:
    """Mean-pooled unit vectors [rows, hidden] of the frozen base."""
    vectors = torch.zeros(len(examples), base.hidden_size)
    for batch in by_length(examples, BATCH):
        with autocast():
            hidden = base.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        vectors[batch.rows] = mean_pooled(hidden.float(), batch.attention_mask)
        tick(len(batch.rows))
    return vectors


def fit_probe(train: Tensor, targets: Tensor, valid: Tensor, valid_targets: Tensor, classes: int) -> tuple[Head, float]:
    """The head whose strength scores best on validation (the stronger penalty on a tie), and that C."""
    best: tuple[float, Head, float] | None = None
    start: Head | None = None
    for strength in STRENGTHS:
        start = fit_logistic(train, targets, classes, strength, start)
        score = accuracy(start.logits(valid).argmax(1), valid_targets)
        if best is None or score > best[0]:
            best = (score, start, strength)
    if best is None:
        raise AssertionError("STRENGTHS is not empty")
    return best[1], best[2]


def fit_logistic(vectors: Tensor, targets: Tensor, classes: int, strength: float, start: Head | None = None) -> Head:
    """Multinomial logistic regression by L-BFGS; the penalty is ‖W‖² / (2·C·n) beside the mean cross-entropy."""
    weight = (start.weight.clone() if start else torch.zeros(classes, vectors.shape[1])).requires_grad_()
    bias = (start.bias.clone() if start else torch.zeros(classes)).requires_grad_()
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=MAX_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        penalty = weight.square().sum() / (2 * strength * len(targets))
        loss = functional.cross_entropy(vectors @ weight.T + bias, targets) + penalty
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return Head(weight.detach(), bias.detach())
