"""The slot table: every slot's LoRA matrices, and the digest they came with, in one row of one tensor."""

import hashlib
import mmap
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from inference.adapters.folder import AdapterFolder, FolderRefused
from inference.adapters.lora import LoraWeights
from inference.engine.precision import device_of

STAMP_BYTES = 32
"""Of the digest; they lie before a slot's weights, in the same row, so whatever moves a row moves both."""
LINE_BYTES = 64
"""Of the processor's cache: rows and weights begin at its multiples, so every slot is computed by the same kernels."""


@dataclass(frozen=True)
class Layer:
    """Where one layer's matrices lie in a slot's row."""

    name: str
    inputs: int
    """Width of what it reads; of an embedding the number of its tokens."""
    outputs: int
    a_at: int
    """Start of A, [inputs, width]: in fp32 products by it take a quarter of what they take by [rank, inputs]."""
    width: int
    """The rank times the layers that read the same input: their A stand side by side."""
    column: int
    """Where its own ``rank`` columns of A begin."""
    b_at: int
    """Start of B, [rank, outputs], already scaled."""
    embeds: bool


@dataclass(frozen=True)
class Packed:
    """An adapter as a slot holds it, ready to be copied there, and what it answers with besides."""

    digest: str
    row: Tensor
    """Stamp and weights, without the embeddings' part where it changes none."""
    checksum: int
    weight: Tensor
    bias: Tensor
    features: dict[str, Any]
    has_linears: bool
    has_embeddings: bool

    def logits(self, vector: Tensor) -> Tensor:
        """[classes] of a row's vector [hidden], by the head that came with the weights."""
        return torch.addmv(self.bias, self.weight, vector)

    @property
    def nbytes(self) -> int:
        """Of its tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.row, self.weight, self.bias))


class SlotTable:
    """``rows`` [slots, width]: per slot the stamp, A and B of each linear layer, then those of the embeddings.

    They lie where the model computes. One product multiplies by the A of all layers that read the same input. On a CPU
    memory that no adapter has touched is never resident, so embeddings cost nothing until one changes them.
    """

    def __init__(
        self, model: nn.Module, together: Sequence[Sequence[str]], embeddings: Sequence[str], *, slots: int, rank: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        self.rank = rank
        self.slots = slots
        self.dtype = dtype
        self.layers: dict[str, Layer] = {}
        self._line = LINE_BYTES // dtype.itemsize
        self._stamp = STAMP_BYTES // dtype.itemsize
        width = self._line
        for group in together:
            width = self._place({name: _linear(model, name) for name in group}, width)
        self._linears = width
        for name in embeddings:
            width = self._place({name: _embedding(model, name)}, width)
        self.rows = _untouched(slots, width, dtype, device_of(model))
        self.generations = [0] * slots
        self._used = [0] * slots
        self.contents: dict[str, Packed] = {}
        """By digest: the head belongs to the weights that a row's stamp names."""
        self._filled = [""] * slots
        self._holders = Counter[str]()
        """In how many slots an adapter is: it may leave one while it comes into another."""
        self._books = threading.Lock()

    def pack(self, folder: AdapterFolder, hidden: int) -> Packed:
        """The adapter in a slot's layout and precision; raises FolderRefused if it is not for this base."""
        self._refuse_foreign(folder, hidden)
        kinds = {weights.embeds for weights in folder.lora.values()}
        row = torch.zeros(self.rows.shape[1] if True in kinds else self._linears)
        for name, weights in folder.lora.items():
            self._write(row, self.layers[name], weights)
        row = row.to(self.dtype)
        if not row.isfinite().all():
            raise FolderRefused("scaled, the adapter holds NaN or infinity; the training that made it diverged")
        row[: self._stamp] = _stamp(folder.digest, self.dtype)
        head = {name: tensor.float() for name, tensor in folder.head.items()}
        return Packed(
            digest=folder.digest, row=row, checksum=_checksum(row), weight=head["weight"], bias=head["bias"],
            features=folder.features, has_linears=False in kinds, has_embeddings=True in kinds,
        )  # fmt: skip

    def fill(self, slot: int, packed: Packed) -> int:
        """Copies an adapter into a slot, weights first and the stamp last; returns the slot's new generation."""
        row, used = self.rows[slot], len(packed.row)
        row[: self._stamp] = 0
        row[self._line : used] = packed.row[self._line :]
        with self._books:
            self._let_go(slot)
            self.contents[packed.digest], self._filled[slot] = packed, packed.digest
            self._holders[packed.digest] += 1
        self._used[slot] = used
        self.generations[slot] += 1
        row[: self._stamp] = packed.row[: self._stamp]
        return self.generations[slot]

    def digest(self, slot: int) -> str:
        """The digest that stands in the slot's own row, before the weights that compute."""
        return self.digests([slot])[0]

    def digests(self, slots: Sequence[int]) -> list[str]:
        """Those of several slots, read at once: each look at a GPU's memory waits until it has computed."""
        stamps = self.rows[torch.tensor(slots, device=self.rows.device), : self._stamp].cpu().view(torch.uint8)
        return ["sha256:" + stamp.numpy().tobytes().hex() for stamp in stamps]

    def content(self, slot: int) -> Packed:
        """What the slot's row holds, by its stamp."""
        return self.contents[self.digest(slot)]

    def forget(self, slot: int) -> None:
        """Frees the head of the adapter that a slot was filled with, unless another slot has it, too."""
        with self._books:
            self._let_go(slot)

    def _let_go(self, slot: int) -> None:
        digest, self._filled[slot] = self._filled[slot], ""
        self._holders[digest] -= 1
        if self._holders[digest] <= 0:
            del self._holders[digest]
            self.contents.pop(digest, None)

    def checksum(self, slot: int) -> int:
        """Of what the slot's adapter takes of its row: weights that moved without their stamp change it."""
        return _checksum(self.rows[slot, : self._used[slot]])

    def a(self, layer: Layer) -> Tensor:
        """An embedding's A of all slots, in place: [slots, inputs, rank]."""
        columns = self.rows[:, layer.a_at : layer.a_at + layer.inputs * self.rank]
        return columns.view(self.slots, layer.inputs, self.rank)

    def b(self, layer: Layer) -> Tensor:
        """An embedding's B of all slots, in place: [slots, rank, outputs]."""
        columns = self.rows[:, layer.b_at : layer.b_at + layer.outputs * self.rank]
        return columns.view(self.slots, self.rank, layer.outputs)

    def _place(self, parts: dict[str, tuple[int, int, bool]], at: int) -> int:
        """Lays out layers of one input, the A of all before the B of all; returns where the next may begin."""
        width = self.rank * len(parts)
        b_at = at + width * next(iter(parts.values()))[0]
        for number, (name, (inputs, outputs, embeds)) in enumerate(parts.items()):
            self.layers[name] = Layer(name, inputs, outputs, at, width, number * self.rank, b_at, embeds)
            b_at += self.rank * outputs
        return -(-b_at // self._line) * self._line

    def _write(self, row: Tensor, layer: Layer, weights: LoraWeights) -> None:
        rank = weights.a.shape[0]
        a = row[layer.a_at : layer.a_at + layer.inputs * layer.width].view(layer.inputs, layer.width)
        b = row[layer.b_at : layer.b_at + self.rank * layer.outputs].view(self.rank, layer.outputs)
        a[:, layer.column : layer.column + rank] = weights.a.T
        b[:rank] = (weights.b.float() * weights.scaling).T

    def _refuse_foreign(self, folder: AdapterFolder, hidden: int) -> None:
        if folder.rank > self.rank:
            cure = "train it with a lower rank"
            raise FolderRefused(f"the adapter has rank {folder.rank}; this host's slots hold up to {self.rank}: {cure}")
        for name, weights in folder.lora.items():
            layer, shapes = self.layers.get(name), (weights.a.shape[1], weights.b.shape[0])
            if layer is None or (layer.inputs, layer.outputs, layer.embeds) != (*shapes, weights.embeds):
                cure = "deploy it on the base that it was trained on"
                raise FolderRefused(f"the adapter changes {name} {shapes}, which this base model does not have: {cure}")
        if (found := folder.head["weight"].shape[1]) != hidden:
            raise FolderRefused(f"the head reads {found} numbers, this base model gives {hidden}")


def _untouched(slots: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros [slots, width]; of the CPU's in whole pages of the kernel's, resident only once they are written."""
    if device.type != "cpu":
        return torch.zeros(slots, width, dtype=dtype, device=device)
    memory = mmap.mmap(-1, max(1, slots * width * dtype.itemsize))
    return torch.frombuffer(memory, dtype=dtype, count=slots * width).view(slots, width)


def _linear(model: nn.Module, name: str) -> tuple[int, int, bool]:
    linear = model.get_submodule(name)
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"{name} is a {type(linear).__name__}; a linear layer was expected")
    return linear.in_features, linear.out_features, False


def _embedding(model: nn.Module, name: str) -> tuple[int, int, bool]:
    embedding = model.get_submodule(name)
    if not isinstance(embedding, nn.Embedding):
        raise TypeError(f"{name} is a {type(embedding).__name__}; an embedding was expected")
    return embedding.num_embeddings, embedding.embedding_dim, True


def _checksum(row: Tensor) -> int:
    """Sum of a row's 64-bit words, as they wrap around."""
    return int(row.view(torch.int64).sum().item())


def _stamp(digest: str, dtype: torch.dtype) -> Tensor:
    raw = bytes.fromhex(digest.removeprefix("sha256:"))
    if len(raw) != STAMP_BYTES:
        raw = hashlib.sha256(digest.encode()).digest()
    return torch.frombuffer(bytearray(raw), dtype=dtype)
