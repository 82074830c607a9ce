"""Many adapters on one base: each row of a batch gathers its own slot's LoRA matrices (S-LoRA, Sheng et al. 2023)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from inference.adapters.pooling import mean_pooled
from inference.adapters.slots import Layer, SlotTable

TOGETHER = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"))
"""Layers that read the same input: their A matrices are multiplied as one."""


@dataclass
class Route:
    """Which slot each row of the batch under way uses; set before a forward, read by every layer."""

    slots: Tensor | None = None
    """[batch]; None: no row has LoRA, the base answers alone."""
    shared: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """(x, A x) by layer, for layers that read the same input, until each has taken its own."""


class StackedLinear(nn.Module):
    """A linear layer plus each row's own low-rank update: y = W x + B[slot] A[slot] x."""

    def __init__(self, base: nn.Linear, layer: Layer, group: list[Layer], table: SlotTable, route: Route) -> None:
        super().__init__()
        self.base = base
        self._layer = layer
        self._group = group
        self._table = table
        self._route = route

    def forward(self, x: Tensor) -> Tensor:
        """[batch, seq, outputs] of x [batch, seq, inputs]."""
        y: Tensor = self.base(x)
        slots = self._route.slots
        if slots is None:
            return y
        rank, layer = self._table.rank, self._layer
        low = self._product(x, slots)
        b = self._table.rows[:, layer.b_at : layer.b_at + rank * layer.outputs].index_select(0, slots)
        return torch.baddbmm(y, low, b.view(-1, layer.outputs, rank).transpose(1, 2))

    def _product(self, x: Tensor, slots: Tensor) -> Tensor:
        """A x [batch, seq, rank]; for a group the first to come multiplies for all."""
        ready = self._route.shared.pop(self._layer.name, None)
        if ready is not None and ready[0] is x:
            return ready[1]
        rank = self._table.rank
        rows = self._table.rows
        stacked = [rows[:, each.a_at : each.b_at].index_select(0, slots) for each in self._group]
        a = torch.cat(stacked, 1) if len(stacked) > 1 else stacked[0]
        low = torch.bmm(x, a.view(len(slots), rank * len(self._group), self._layer.inputs).transpose(1, 2))
        for at, each in enumerate(self._group[1:], 1):
            self._route.shared[each.name] = (x, low[:, :, at * rank : (at + 1) * rank])
        return low[:, :, :rank]


class StackedModel:
    """A base whose linear layers are stacked over a slot table, and per-row heads."""

    def __init__(self, model: nn.Module, names: list[str], *, slots: int, rank: int) -> None:
        self.table = SlotTable(model, names, slots=slots, rank=rank)
        self.model = model
        self.forwards = 0
        """Base forwards done: what batching saves is counted, not believed."""
        self._route = Route()
        for group in groups(names):
            for at, name in enumerate(group):
                self._replace(name, group[at:] if at == 0 else [name])

    @torch.inference_mode()
    def vectors(self, input_ids: Tensor, attention_mask: Tensor, slots: list[int]) -> Tensor:
        """Unit vectors [batch, hidden]: one base forward for all rows, each through its own slot's adapter."""
        self.forwards += 1
        lora = any(self.table.content(slot).has_lora for slot in set(slots))
        self._route.slots = torch.tensor(slots) if lora else None
        self._route.shared.clear()
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
        stacked = StackedLinear(linear, self.table.layers[name], layers, self.table, self._route)
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
