"""The steps of a model that learns: optimiser, schedule, one ``step`` per batch."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from inference.engine.adapting.classifier import Classifier
from inference.engine.adapting.optimisers import OPTIMISERS
from inference.engine.adapting.recipe import Recipe
from inference.engine.batches import Batch
from inference.engine.limits import ran_out
from inference.engine.objectives.objective import Objective

HEAD_RATE = 1e-2
WARM_UP = 0.06
CLIP = 1.0
F = TypeVar("F")


@dataclass
class Run:
    """A model being trained; what is left out of a step is its views' doing, not that of torch's dropout."""

    model: Classifier
    recipe: Recipe
    objective: Objective
    steps: int
    """Optimiser steps in all."""
    rows_at_once: int = 1 << 30
    """Rows that go forward and back together; a batch's gradients add up over its parts."""
    optimiser: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        learns = [part for part in self.model.encoder.parameters() if part.requires_grad]
        self.optimiser = optimiser_of(learns, list(self.model.head.parameters()), self.model.method.rate, self.recipe)

    def step(self, batch: Batch, number: int) -> float:
        """One optimiser step (``number`` counts from 0); the batch's mean loss."""
        self.model.eval()
        loss, self.rows_at_once = within_memory(
            lambda at_once: self._gradients(batch, at_once, number), self.rows_at_once, batch
        )
        take_step(self.optimiser, schedule(number, self.steps))
        return loss

    def _gradients(self, batch: Batch, at_once: int, number: int) -> float:
        """The batch's mean loss, its gradients laid down."""
        self.optimiser.zero_grad()
        told, size, views = 0.0, len(batch.rows), self.model.views
        for rows, part in batch.parts(at_once):
            with views.drawn(self.recipe.seed, number, rows, size):
                outputs = self.model(part.repeated(views.count))
            loss = losses(self.objective, self.recipe, outputs, part.targets).sum() / size
            loss.backward()  # type: ignore[no-untyped-call]
            told += float(loss.item())
        return told


def losses(objective: Objective, recipe: Recipe, outputs: Tensor, targets: Tensor) -> Tensor:
    """[rows] of outputs [views * rows, width]: the objective's own, and how far two views of a row are apart."""
    targets = targets.to(outputs.device)
    views = torch.split(outputs, len(targets))
    found = [objective.loss(view, targets, smoothing=recipe.smoothing) for view in views]
    if len(views) == 1:
        return found[0]
    return torch.stack(found).mean(0) + recipe.consistency * objective.apart(*views)


def within_memory(work: Callable[[int], F], at_once: int, batch: Batch) -> tuple[F, int]:
    """What ``work`` gives with so many rows at once, or half of them each time memory runs out; and how many it was."""
    while True:
        try:
            return work(at_once), at_once
        except (MemoryError, RuntimeError) as error:
            at_once = min(at_once, len(batch.rows))
            if at_once == 1 or not ran_out(error):
                raise
        at_once //= 2


def optimiser_of(
    encoder: list[nn.Parameter], head: list[nn.Parameter], rate: float, recipe: Recipe
) -> torch.optim.Optimizer:
    """The recipe's optimiser of what learns; ``rate`` is the method's own."""
    kind = OPTIMISERS[recipe.optimiser]
    peaks = ((encoder, rate * recipe.rate), (head, HEAD_RATE))
    groups: list[dict[str, Any]] = [
        {"params": parts, "lr": kind.rate * peak, "peak": kind.rate * peak} for parts, peak in peaks
    ]
    return kind.made(groups)


def take_step(optimiser: torch.optim.Optimizer, share: float) -> None:
    """One step at a share of the peak rate, the gradient's length at most CLIP."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * share
    nn.utils.clip_grad_norm_([part for group in optimiser.param_groups for part in group["params"]], CLIP)
    optimiser.step()


def schedule(step: int, steps: int) -> float:
    """Linear warm-up over the first WARM_UP of the steps, then a cosine to zero."""
    warm = max(1, int(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
