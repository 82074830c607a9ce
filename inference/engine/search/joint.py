"""One step for several trials of LoRA: they share a base, and each batch of theirs is one forward and one back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional

from inference.engine.adapting.classifier import Classifier, vectors_of
from inference.engine.adapting.methods import copied
from inference.engine.base_models import Base
from inference.engine.batches import Batch

NAME = "default"
"""peft's, of an adapter that was given none."""


@dataclass(frozen=True)
class Pair:
    """A layer's update in one trial: a [rank, in], b [out, rank], scaling."""

    a: nn.Parameter
    b: nn.Parameter
    scaling: float


class JointLinear(nn.Module):
    """A frozen linear layer with an update for each of so many trials, whose rows follow each other in blocks."""

    def __init__(self, linear: nn.Linear, pairs: Sequence[Pair | None]) -> None:
        super().__init__()
        self.linear = linear
        self._pairs = pairs

    def forward(self, x: Tensor) -> Tensor:
        """[trials * batch, seq, out] of x [trials * batch, seq, in]; smaller ranks are filled up with zeros."""
        blocks = x.reshape(len(self._pairs), -1, x.shape[-1])
        a, b = self._stacked()
        updates = torch.bmm(torch.bmm(blocks, a.transpose(1, 2)), b.transpose(1, 2))
        frozen: Tensor = self.linear(x)
        return frozen + updates.reshape(frozen.shape)

    def _stacked(self) -> tuple[Tensor, Tensor]:
        """A [trials, rank, in] and scaled B [trials, out, rank]."""
        rank = max(pair.a.shape[0] for pair in self._pairs if pair)
        down, up = [], []
        for pair in self._pairs:
            if pair is None:
                down.append(self.linear.weight.new_zeros(rank, self.linear.in_features))
                up.append(self.linear.weight.new_zeros(self.linear.out_features, rank))
            else:
                missing = rank - pair.a.shape[0]
                down.append(functional.pad(pair.a, (0, 0, 0, missing)))
                up.append(pair.scaling * functional.pad(pair.b, (0, missing)))
        return torch.stack(down), torch.stack(up)


class Joint(nn.Module):
    """Several classifiers on one base as one model; what learns is theirs."""

    def __init__(self, base: Base, models: Sequence[Classifier]) -> None:
        super().__init__()
        self._models = list(models)
        self._encoder = copied(base.model, set())
        pairs = [_pairs(model) for model in models]
        for name in sorted(set().union(*pairs)):
            parent, _, child = name.rpartition(".")
            linear: Any = self._encoder.get_submodule(name)
            layer = JointLinear(linear, [each.get(name) for each in pairs])
            setattr(self._encoder.get_submodule(parent), child, layer)

    def forward(self, batch: Batch) -> list[Tensor]:
        """Of each trial its logits [batch, width] of the same rows."""
        count = len(self._models)
        vectors = vectors_of(self._encoder, batch.repeated(count))
        return [model.head(block) for model, block in zip(self._models, vectors.chunk(count), strict=True)]


def _pairs(model: Classifier) -> Mapping[str, Pair]:
    """By the names of the base's layers."""
    encoder: Any = model.encoder
    found = {}
    for name, part in encoder.get_base_model().named_modules():
        if isinstance(part, LoraLayer):
            a, b = part.lora_A[NAME].weight, part.lora_B[NAME].weight
            found[name] = Pair(a, b, float(part.scaling[NAME]))  # type: ignore[arg-type]
    return found
