"""Cross-fitting: each row is judged by a model that has not seen it."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

FOLDS = 5
M = TypeVar("M")


def folds(targets: Tensor, seed: int) -> Tensor:
    """[rows]: the fold of each, every label, or the range of the numbers, spread evenly over them."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(targets), generator=generator)
    order = order[targets[order].sort(stable=True).indices]
    made = torch.empty(len(order), dtype=torch.long)
    made[order] = torch.arange(len(order)) % FOLDS
    return made


def crossed(
    fold: Tensor, width: int, fit: Callable[[Tensor, Tensor], M], outputs: Callable[[M, Tensor], Tensor]
) -> tuple[list[M], Tensor]:
    """(members, outputs [rows, width]); ``fit`` takes row numbers to learn from, and those that are held out."""
    found = torch.zeros(len(fold), width)
    members = []
    for held in range(FOLDS):
        out = torch.nonzero(fold == held).flatten()
        members.append(fit(torch.nonzero(fold != held).flatten(), out))
        found[out] = outputs(members[-1], out).float()
    return members, found
