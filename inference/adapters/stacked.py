"""Many adapters on one base: each row of a batch meets its own slot's LoRA matrices (S-LoRA, Sheng et al. 2023)."""

import torch
from torch import Tensor, nn

from inference.adapters.pooling import mean_pooled
from inference.adapters.route import Route
from inference.adapters.slots import Layer, SlotTable
from inference.engine.precision import device_of

TOGETHER = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"))
"""Layers that read the same input: their A matrices are multiplied as one."""


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
        y.view(route.groups, -1, layer.outputs).baddbmm_(low, b.view(route.groups, self._rank, layer.outputs))
        return y

    def _product(self, x: Tensor) -> Tensor:
        """A x [groups, rows and seq, rank]; the first layer of those that read the same input multiplies for all."""
        ready = self._route.shared.pop(self._layer.name, None)
        if ready is not None and ready[0] is x:
            return ready[1]
        route, layer, rank = self._route, self._layer, self._rank
        a = route.matrices(self._table, layer.a_at, layer.a_at + layer.inputs * layer.width)
        down = a.view(route.groups, layer.inputs, layer.width)
        if not self._others:
            down = down[:, :, layer.column : layer.column + rank]
        low = torch.bmm(x.reshape(route.groups, -1, layer.inputs), down)
        for other in self._others:
            route.shared[other.name] = (x, low[:, :, other.column : other.column + rank])
        return low[:, :, :rank]


class StackedEmbedding(nn.Module):
    """An embedding plus, in rows whose adapter changes it, their own low-rank update: y = E[id] + A[slot, id] B[slot].

    Only the tokens that are there are read of A, which is as long as the vocabulary.
    """

    def __init__(self, base: nn.Embedding, layer: Layer, table: SlotTable, route: Route) -> None:
        super().__init__()
        self.base = base
        self._a, self._b = table.a(layer), table.b(layer)
        self._route = route

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, seq, outputs] of ids [batch, seq], or [1, seq] where all rows have the same, as positions do."""
        y: Tensor = self.base(ids)
        rows, slots = self._route.embedded, self._route.embedded_slots
        if not len(rows):
            return y
        if len(ids) < self._route.rows:
            ids = ids.expand(self._route.rows, -1)
            y = y.repeat(self._route.rows, 1, 1)
        y[rows] += torch.bmm(self._a[slots[:, None], ids[rows]], self._b[slots])
        return y


class StackedModel:
    """A base whose linear layers and embeddings are stacked over a slot table, and per-row heads."""

    def __init__(
        self, model: nn.Module, names: list[str], *, slots: int, rank: int, dtype: torch.dtype = torch.float32
    ) -> None:
        together, embeddings = groups(names, model), embedding_names(model)
        self.hidden_size = int(model.config.hidden_size)  # type: ignore[union-attr,arg-type]
        self.table = SlotTable(model, together, embeddings, slots=slots, rank=rank, dtype=dtype)
        self.model = model.to(dtype)
        self._device = device_of(model)
        self.forwards = 0
        """Base forwards done: what batching saves is counted, not believed."""
        self._route = Route()
        for group in together:
            for at, name in enumerate(group):
                self._stack_linear(name, group if at == 0 else [name])
        for name in embeddings:
            self._stack_embedding(name)

    @torch.inference_mode()
    def vectors(self, input_ids: Tensor, attention_mask: Tensor, slots: list[int]) -> Tensor:
        """Unit vectors [batch, hidden], fp32: one base forward for all rows, each through its own slot's adapter.

        Inputs come from the CPU, and vectors go there, wherever the model computes.
        """
        self.forwards += 1
        distinct = list(dict.fromkeys(slots))
        contents = [self.table.contents[digest] for digest in self.table.digests(distinct)]
        self._route.turn(slots, dict(zip(distinct, contents, strict=True)), self._device)
        mask = attention_mask.to(self._device)
        hidden = self.model(input_ids=input_ids.to(self._device), attention_mask=mask).last_hidden_state
        return mean_pooled(hidden.float(), mask).cpu()

    def _stack_linear(self, name: str, group: list[str]) -> None:
        linear = self.model.get_submodule(name)
        if not isinstance(linear, nn.Linear):
            raise TypeError(f"{name} is a {type(linear).__name__}; only linear layers are stacked so")
        layers = [self.table.layers[each] for each in group]
        self._replace(name, StackedLinear(linear, layers, self.table, self._route))

    def _stack_embedding(self, name: str) -> None:
        embedding = self.model.get_submodule(name)
        if not isinstance(embedding, nn.Embedding):
            raise TypeError(f"{name} is a {type(embedding).__name__}; only embeddings are stacked so")
        self._replace(name, StackedEmbedding(embedding, self.table.layers[name], self.table, self._route))

    def _replace(self, name: str, part: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(self.model.get_submodule(parent), child, part)


def embedding_names(model: nn.Module) -> list[str]:
    """Plain embeddings: one that scales what it gives, or norms its own weights, is not what LoRA is added to."""
    parts = model.named_modules()
    return [name for name, part in parts if type(part) is nn.Embedding and part.max_norm is None]


def groups(names: list[str], model: nn.Module) -> list[list[str]]:
    """Names that read the same input together, in the order in which they are called; the others alone."""
    left = dict.fromkeys(names)
    found: list[list[str]] = []
    while left:
        name = next(iter(left))
        parent, _, child = name.rpartition(".")
        kin = next((kin for kin in TOGETHER if child in kin), (child,))
        near = [each for each in (f"{parent}.{sibling}" if parent else sibling for sibling in kin) if each in left]
        group = [each for each in near if _inputs(model, each) == _inputs(model, name)]
        found.append(group)
        for each in group:
            del left[each]
    return found


def _inputs(model: nn.Module, name: str) -> object:
    return model.get_submodule(name).in_features
