"""Batches of ragged token ids: bucketed by length, padded little, in an order fixed by seed and epoch."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inference.engine.precision import has_fast_bf16
from inference.engine.task import Examples

PAD_TO = 8 if has_fast_bf16() else 1
"""bf16 kernels are built for each new shape; fp32 ones are there."""
POOL_BATCHES = 16
"""Batches' worth of shuffled rows that are sorted by length together: random enough, little padding."""


@dataclass(frozen=True)
class Batch:
    """rows [batch]: indices into the examples; input_ids and attention_mask [batch, seq]; targets [batch]."""

    rows: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    targets: Tensor

    def repeated(self, times: int) -> "Batch":
        """So many copies of the tokens after each other; rows and targets stand for all of them."""
        return replace(
            self, input_ids=self.input_ids.repeat(times, 1), attention_mask=self.attention_mask.repeat(times, 1)
        )

    def parts(self, size: int) -> "Iterator[tuple[slice, Batch]]":
        """The same rows, so many at a time, with their places; each part as wide as it must be."""
        for start in range(0, len(self.rows), size):
            rows = slice(start, min(start + size, len(self.rows)))
            mask = self.attention_mask[rows]
            width = -(-int(mask.sum(1).max()) // PAD_TO) * PAD_TO
            yield rows, Batch(self.rows[rows], self.input_ids[rows, :width], mask[:, :width], self.targets[rows])


def padded(ids: list[list[int]], pad_to: int = PAD_TO) -> tuple[Tensor, Tensor]:
    """input_ids and attention_mask [batch, seq], seq a multiple of ``pad_to``; the pad id is 0 and masked."""
    width = -(-max(map(len, ids)) // pad_to) * pad_to
    lengths = torch.tensor([len(row) for row in ids])
    mask = (torch.arange(width) < lengths[:, None]).long()
    flat = torch.tensor([token for row in ids for token in row])
    return torch.zeros(len(ids), width, dtype=torch.long).masked_scatter_(mask.bool(), flat), mask


def batch_of(examples: Examples, rows: Tensor) -> Batch:
    """The batch of those rows."""
    input_ids, mask = padded([examples.ids[row] for row in rows.tolist()])
    return Batch(rows, input_ids, mask, examples.targets[rows])


def by_length(examples: Examples, size: int) -> Iterator[Batch]:
    """Every row once, shortest first: the least padding, for evaluation."""
    for rows in torch.split(examples.lengths.argsort(stable=True), size):
        if len(rows):
            yield batch_of(examples, rows)


def epoch_order(examples: Examples, size: int, *, seed: int, epoch: int) -> list[Tensor]:
    """Row indices of each batch of an epoch; the same for the same seed and epoch, so a resume can skip ahead."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    batches: list[Tensor] = []
    for pool in torch.split(torch.randperm(len(examples), generator=generator), size * POOL_BATCHES):
        batches += torch.split(pool[examples.lengths[pool].argsort(stable=True)], size)
    return [batches[at] for at in torch.randperm(len(batches), generator=generator).tolist()]
