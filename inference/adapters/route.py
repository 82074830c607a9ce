"""Which slots the batch under way uses, and their matrices."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from inference.adapters.slots import Packed


def _nothing() -> Tensor:
    return torch.empty(0, dtype=torch.long)


@dataclass
class Route:
    """Set before a forward, read by every layer.

    Where rows come sorted by slot and each slot has equally many, say 3 slots with 4 rows each, one product per slot
    serves its 4 rows; else each row has its own.
    """

    rows: int = 0
    """Of the batch."""
    groups: int = 0
    """Products per layer: slots, or rows where slots have unequally many; 0: no row has LoRA, the base is alone."""
    only: int = 0
    """The slot, where there is one group."""
    index: Tensor = field(default_factory=_nothing)
    """[groups] slots."""
    embedded: Tensor = field(default_factory=_nothing)
    """Rows whose adapters change embeddings; most batches have none."""
    embedded_slots: Tensor = field(default_factory=_nothing)
    """Their slots."""
    shared: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """(x, A x) by layer, for layers that read the same input, until each has taken its own."""
    scratch: Tensor = field(default_factory=lambda: torch.empty(0))
    """Where matrices are gathered, one layer's after the other's: small enough to stay in the processor's cache."""

    def turn(self, slots: list[int], contents: dict[int, Packed], device: torch.device) -> None:
        """Sets the route of a batch whose rows have these slots of a table on that device."""
        self.shared.clear()
        self.rows = len(slots)
        embedded = [row for row, slot in enumerate(slots) if contents[slot].has_embeddings]
        self.embedded = torch.tensor(embedded, dtype=torch.long, device=device)
        self.embedded_slots = torch.tensor([slots[row] for row in embedded], dtype=torch.long, device=device)
        self.groups = 0
        if any(packed.has_linears for packed in contents.values()):
            self._group(slots, device)

    def matrices(self, table: Tensor, start: int, end: int) -> Tensor:
        """[groups, end - start] of a table [slots, width]: of one slot in place; gathered of several, which is faster
        than products over rows that lie megabytes apart."""
        columns = table[:, start:end]
        if self.groups == 1:
            return columns[self.only : self.only + 1]
        size = self.groups * (end - start)
        if len(self.scratch) < size:
            self.scratch = table.new_empty(size)
        return torch.index_select(columns, 0, self.index, out=self.scratch[:size].view(self.groups, -1))

    def _group(self, slots: list[int], device: torch.device) -> None:
        distinct = list(dict.fromkeys(slots))
        each = len(slots) // len(distinct)
        chosen = distinct if slots == [slot for slot in distinct for _ in range(each)] else slots
        self.groups, self.only = len(chosen), chosen[0]
        self.index = torch.tensor(chosen, device=device)
