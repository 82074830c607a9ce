"""Cross-fitting: each row is judged by a model that has seen neither it, nor its equals, nor any row of its group."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from tilth.contract.messages import Row
from torch import Tensor

FOLDS = 5
RANGES = 10
"""Of numbers: every fold gets its share of each, where rows have groups."""
M = TypeVar("M")


def groups_of(rows: Sequence[Row]) -> Tensor:
    """[rows]: the frozen version's number of what must stay together; where there is none, a row stands alone."""
    found = [row.get("group") for row in rows]
    return torch.tensor([-1 - at if group is None else int(str(group)) for at, group in enumerate(found)])


def folds(targets: Tensor, seed: int, groups: Tensor | None = None) -> Tensor:
    """[rows]: the fold of each, every label, or the range of the numbers, spread evenly; ``groups`` [rows] are whole.

    The largest groups come first, each to the fold that has least of its like; rows that stand alone level the rest.
    Where all rows are one group, it is as if there were none.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(targets), generator=generator)
    like = targets if targets.dim() == 1 else _rarest(targets)
    order = order[like[order].sort(stable=True).indices]
    made = torch.empty(len(order), dtype=torch.long)
    numbers = torch.arange(len(order)) if groups is None else groups
    _, place, counts = torch.unique(numbers, return_inverse=True, return_counts=True)
    together = counts[place] > 1
    if len(counts) == 1 or not together.any():
        made[order] = torch.arange(len(order)) % FOLDS
        return made
    deal = Deal(_strata(like), made)
    grouped = order[together[order]]
    grouped = grouped[place[grouped].sort(stable=True).indices]
    for part in sorted(torch.split(grouped, counts[counts > 1].tolist()), key=len, reverse=True):
        deal.group(part)
    alone = order[~together[order]]
    for part in torch.split(alone, torch.unique_consecutive(deal.strata[alone], return_counts=True)[1].tolist()):
        deal.single(part)
    return made


class Deal:
    """Deals rows to folds so that each gets the same of every stratum [rows]; writes into ``made`` [rows]."""

    def __init__(self, strata: Tensor, made: Tensor) -> None:
        self.strata, self._made = strata, made
        self._totals = torch.bincount(strata).double()
        self._have = torch.zeros(FOLDS, len(self._totals), dtype=torch.double)
        self._size = torch.zeros(FOLDS, dtype=torch.double)

    def group(self, rows: Tensor) -> None:
        """All to the fold that would be emptiest after it."""
        strata, counts = torch.unique(self.strata[rows], return_counts=True)
        filled = ((self._have[:, strata] + counts) * counts / self._totals[strata]).sum(1)
        filled += (self._size + len(rows)) * len(rows) / len(self._made)
        fold = int(filled.argmin())
        self._made[rows] = fold
        self._have[fold, strata] += counts
        self._size[fold] += len(rows)

    def single(self, rows: Tensor) -> None:
        """Rows of one stratum, each to the fold that has least of it; of equal ones to the smaller."""
        stratum, small = int(self.strata[rows[0]]), self._size.argsort(stable=True)
        levels = self._have[small, stratum, None] + torch.arange(len(rows))
        fold = small[levels.flatten().argsort(stable=True)[: len(rows)] // len(rows)]
        self._made[rows] = fold
        counts = torch.bincount(fold, minlength=FOLDS)
        self._have[:, stratum] += counts
        self._size += counts


def _strata(like: Tensor) -> Tensor:
    """[rows]: a number from 0 for each label, or for each range of the numbers."""
    if like.is_floating_point():
        return like.sort(stable=True).indices.argsort() * RANGES // len(like)
    found: Tensor = torch.unique(like, return_inverse=True)[1]
    return found


def _rarest(targets: Tensor) -> Tensor:
    """[rows]: of targets [rows, labels] the row's rarest label, -1 where it has none."""
    rarity = torch.where(targets == 1, 1 / (targets == 1).sum(0).clamp(min=1), 0.0)
    most, label = rarity.max(1)
    return torch.where(most > 0, label, -1)


def parts(fold: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(rows to learn from, rows held out) of each fold that has rows: fewer groups than FOLDS leave some without."""
    for held in torch.unique(fold).tolist():
        yield torch.nonzero(fold != held).flatten(), torch.nonzero(fold == held).flatten()


def crossed(
    fold: Tensor, width: int, fit: Callable[[Tensor, Tensor], M], outputs: Callable[[M, Tensor], Tensor]
) -> tuple[list[M], Tensor]:
    """(members, outputs [rows, width]); ``fit`` takes row numbers to learn from, and those that are held out."""
    found = torch.zeros(len(fold), width)
    members = []
    for rows, out in parts(fold):
        members.append(fit(rows, out))
        found[out] = outputs(members[-1], out).float()
    return members, found
