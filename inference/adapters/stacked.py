"""Many adapters on one base: each row of a batch meets its own slot's LoRA matrices (S-LoRA, Sheng et al. 2023)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from inference.adapters.pooling import mean_pooled
from inference.adapters.slots import Layer, SlotTable

TOGETHER = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"))
"""Layers that read the same input: their A matrices are multiplied as one."""


@dataclass
class Route:
    """Which slots the batch under way uses; set before a forward, read by every layer.

    Where rows come sorted by slot and each slot has equally many, say 3 slots with 4 rows each, one product per slot
    serves its 4 rows; else each row has its own.
    """

    groups: int = 0
    """Products per layer: slots, or rows where slots have unequally many; 0: no row has LoRA, the base is alone."""
    window: tuple[int, int] | None = None
    """First slot and the one after the last, where the groups' slots follow each other: read in place."""
    index: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    """[groups] slots: else they are gathered."""
    shared: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """(x, A x) by layer, for layers that read the same input, until each has taken its own."""
    scratch: Tensor = field(default_factory=lambda: torch.empty(0))
    """Where matrices are gathered, one layer's after the other's: small enough to stay in the processor's cache."""

    def turn(self, slots: list[int], *, lora: bool) -> None:
        """Sets the route of a batch whose rows have these slots."""
        self.shared.clear()
        self.groups = 0
        if not lora:
            return
        distinct = list(dict.fromkeys(slots))
        each = len(slots) // len(distinct)
        chosen = distinct if slots == [slot for slot in distinct for _ in range(each)] else slots
        first, after = chosen[0], chosen[0] + len(chosen)
        self.groups = len(chosen)
        self.window = (first, after) if chosen == list(range(first, after)) else None
        self.index = torch.tensor(chosen)

    def matrices(self, table: Tensor, start: int, end: int) -> Tensor:
        """[groups, end - start] of a table [slots, width]."""
        columns = table[:, start:end]
        if self.window:
            return columns[self.window[0] : self.window[1]]
        size = self.groups * (end - start)
        if len(self.scratch) < size:
            self.scratch = torch.empty(size)
        return torch.index_select(columns, 0, self.index, out=self.scratch[:size].view(self.groups, -1))


class StackedLinear(nn.Module):
    """A linear layer plus each row's own low-rank update: y = W x + B[slot] A[slot] x."""

    def __init__(self, base: nn.Linear, group: list[Layer], table: SlotTable, route: Route) -> None:
        super().__init__()
        self.base = base
        self._layer, *self._others = group
        self._rank = table.rank
        self._table = table.rows
        self._route = route

    def forward(self, x: Tensor) -> Tensor:
        """[batch, seq, outputs] of x [batch, seq, inputs]."""
        y: Tensor = self.base(x)
        route, layer = self._route, self._layer
        if not route.groups:
            return y
        low = self._product(x)
        b = route.matrices(self._table, layer.b_at, layer.b_at + self._rank * layer.outputs)
        up = b.view(route.groups, layer.outputs, self._rank).transpose(1, 2)
        y.view(route.groups, -1, layer.outputs).baddbmm_(low, up)
        return y

    def _product(self, x: Tensor) -> Tensor:
        """A x [groups, rows and seq, rank]; the first layer of those that read the same input multiplies for all."""
        ready = self._route.shared.pop(self._layer.name, None)
        if ready is not None and ready[0] is x:
            return ready[1]
        route, layer, rank = self._route, self._layer, self._rank
        together = rank * (1 + len(self._others))
        a = route.matrices(self._table, layer.a_at, layer.a_at + together * layer.inputs)
        down = a.view(route.groups, together, layer.inputs).transpose(1, 2)
        low = torch.bmm(x.reshape(route.groups, -1, layer.inputs), down)
        for at, other in enumerate(self._others, 1):
            route.shared[other.name] = (x, low[:, :, at * rank : (at + 1) * rank])
        return low[:, :, :rank]


class StackedModel:
    """A base whose linear layers are stacked over a slot table, and per-row heads."""

    def __init__(self, model: nn.Module, names: list[str], *, slots: int, rank: int) -> None:
        together = groups(names)
        self.table = SlotTable(model, together, slots=slots, rank=rank)
        self.model = model
        self.forwards = 0
        """Base forwards done: what batching saves is counted, not believed."""
        self._route = Route()
        for group in together:
            for at, name in enumerate(group):
                self._replace(name, group if at == 0 else [name])

    @torch.inference_mode()
    def vectors(self, input_ids: Tensor, attention_mask: Tensor, slots: list[int]) -> Tensor:
        """Unit vectors [batch, hidden]: one base forward for all rows, each through its own slot's adapter."""
        self.forwards += 1
        self._route.turn(slots, lora=any(self.table.content(slot).has_lora for slot in set(slots)))
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return mean_pooled(hidden, attention_mask)

    def logits(self, vector: Tensor, slot: int) -> Tensor:
        """[classes] of one row's vector [hidden], by the head that belongs to the slot's weights."""
        content = self.table.content(slot)
        return torch.addmv(content.bias, content.weight, vector)

    def _replace(self, name: str, group: list[str]) -> None:
        parent, _, child = name.rpartition(".")
        linear = self.model.get_submodule(name)
        if not isinstance(linear, nn.Linear):
            raise TypeError(f"{name} is a {type(linear).__name__}; only linear layers are stacked")
        layers = [self.table.layers[each] for each in group]
        stacked = StackedLinear(linear, layers, self.table, self._route)
        setattr(self.model.get_submodule(parent), child, stacked)


def groups(names: list[str]) -> list[list[str]]:
    """Names that read the same input together, in the order in which they are called; the others alone."""
    left = dict.fromkeys(names)
    found: list[list[str]] = []
    while left:
        name = next(iter(left))
        parent, _, child = name.rpartition(".")
        kin = next((kin for kin in TOGETHER if child in kin), (child,))
        group = [each for each in (f"{parent}.{sibling}" if parent else sibling for sibling in kin) if each in left]
        found.append(group)
        for each in group:
            del left[each]
    return found
