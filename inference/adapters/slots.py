"""The slot table: every slot's LoRA matrices, and the digest they came with, in one row of one tensor."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor, nn

from inference.adapters.folder import AdapterFolder, FolderRefused

STAMP_BYTES = 32
"""Of the digest; they lie behind a slot's weights, in the same row, so whatever moves a row moves both."""


@dataclass(frozen=True)
class Layer:
    """Where one linear layer's matrices lie in a slot's row."""

    name: str
    inputs: int
    outputs: int
    a_at: int
    """Start of A [rank, inputs]."""
    b_at: int
    """Start of B [outputs, rank], already scaled."""


@dataclass(frozen=True)
class SlotContent:
    """What a slot answers with besides LoRA: the head, and the digest computed from the bytes."""

    digest: str
    weight: Tensor
    bias: Tensor
    has_lora: bool


class SlotTable:
    """``rows`` [slots, width]: per slot A and B of each layer, then the stamp; preallocated, filled in place.

    The A of layers that read the same input lie side by side: one product multiplies by all of them.
    """

    def __init__(self, model: nn.Module, together: Sequence[Sequence[str]], *, slots: int, rank: int) -> None:
        self.rank = rank
        self.slots = slots
        self.layers: dict[str, Layer] = {}
        width = 0
        for group in together:
            linears = {name: _linear(model, name) for name in group}
            b_at = width + rank * sum(linear.in_features for linear in linears.values())
            for name, linear in linears.items():
                self.layers[name] = Layer(name, linear.in_features, linear.out_features, width, b_at)
                width += rank * linear.in_features
                b_at += rank * linear.out_features
            width = b_at
        self._weights = width
        self.rows = torch.from_numpy(numpy.zeros((slots, width + STAMP_BYTES // 4), numpy.float32))
        self.generations = [0] * slots
        self.contents: dict[str, SlotContent] = {}
        """By digest: the head belongs to the weights that a row's stamp names."""

    def fill(self, slot: int, folder: AdapterFolder) -> int:
        """Writes an adapter into a slot, weights first and the stamp last; returns the slot's new generation."""
        self._refuse_foreign(folder)
        row = self.rows[slot]
        row.zero_()
        for name, weights in folder.lora.items():
            layer, rank = self.layers[name], weights.a.shape[0]
            self._a(row, layer)[:rank] = weights.a
            self._b(row, layer)[:, :rank] = weights.b * folder.scaling
        head = {name: tensor.float() for name, tensor in folder.head.items()}
        self.contents[folder.digest] = SlotContent(folder.digest, head["weight"], head["bias"], bool(folder.lora))
        row[self._weights :] = _stamp(folder.digest)
        self.generations[slot] += 1
        return self.generations[slot]

    def digest(self, slot: int) -> str:
        """The digest that stands in the slot's own row, behind the weights that compute."""
        return "sha256:" + self.rows[slot, self._weights :].view(torch.uint8).numpy().tobytes().hex()

    def content(self, slot: int) -> SlotContent:
        """The head of what the slot's row holds."""
        return self.contents[self.digest(slot)]

    def forget(self, digest: str) -> None:
        """Frees the head of an adapter that left its slot."""
        self.contents.pop(digest, None)

    def checksum(self, slot: int) -> int:
        """Sum of the row's 32-bit words: weights that moved without their stamp change it."""
        return int(self.rows[slot].view(torch.int32).sum(dtype=torch.int64).item())

    def _a(self, row: Tensor, layer: Layer) -> Tensor:
        return row[layer.a_at : layer.a_at + self.rank * layer.inputs].view(self.rank, layer.inputs)

    def _b(self, row: Tensor, layer: Layer) -> Tensor:
        return row[layer.b_at : layer.b_at + self.rank * layer.outputs].view(layer.outputs, self.rank)

    def _refuse_foreign(self, folder: AdapterFolder) -> None:
        if folder.rank > self.rank:
            raise FolderRefused(f"the adapter has rank {folder.rank}; this host's slots hold up to {self.rank}")
        for name, weights in folder.lora.items():
            layer = self.layers.get(name)
            shapes = (weights.a.shape[1], weights.b.shape[0])
            if layer is None or (layer.inputs, layer.outputs) != shapes:
                raise FolderRefused(f"the adapter changes {name} {shapes}, which this base model does not have")


def _linear(model: nn.Module, name: str) -> nn.Linear:
    linear = model.get_submodule(name)
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"{name} is a {type(linear).__name__}; only linear layers are stacked")
    return linear


def _stamp(digest: str) -> Tensor:
    raw = bytes.fromhex(digest.removeprefix("sha256:"))
    if len(raw) != STAMP_BYTES:
        raw = hashlib.sha256(digest.encode()).digest()
    return torch.frombuffer(bytearray(raw), dtype=torch.float32)
