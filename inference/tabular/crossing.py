"""Cross-fitting: each row is judged by a model that has not seen it, and the members' mean is the model."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from inference.tabular.table import TableLesson

FOLDS = 5
M = TypeVar("M")


def folds(table: TableLesson) -> Tensor:
    """[rows]: the fold of each, every label, or the range of the numbers, spread evenly over them."""
    generator = torch.Generator().manual_seed(table.lesson.seed)
    order = torch.randperm(len(table.rows), generator=generator)
    order = order[table.targets[order].sort(stable=True).indices]
    made = torch.empty(len(order), dtype=torch.long)
    made[order] = torch.arange(len(order)) % FOLDS
    return made


def crossed(
    table: TableLesson, fit: Callable[[Tensor, Tensor], M], outputs: Callable[[M, Tensor], Tensor]
) -> tuple[list[M], Tensor]:
    """(members, outputs [rows, width]); ``fit`` takes row numbers to learn from and to stop early by."""
    fold = folds(table)
    found = torch.zeros(len(table.rows), table.objective.width)
    members = []
    for held in range(FOLDS):
        out = torch.nonzero(fold == held).flatten()
        members.append(fit(torch.nonzero(fold != held).flatten(), out))
        found[out] = outputs(members[-1], out).float()
    return members, found
