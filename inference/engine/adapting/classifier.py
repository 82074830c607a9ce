"""An encoder that a method adapts, with a linear head on top: the model while it learns."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from inference.adapters.pooling import mean_pooled
from inference.engine.adapting.methods import Method
from inference.engine.adapting.recipe import Recipe
from inference.engine.adapting.views import Views
from inference.engine.base_models import Base
from inference.engine.batches import Batch, by_length
from inference.engine.encoder import EVALUATION_BATCH
from inference.engine.heads import Head
from inference.engine.precision import autocast, device_of
from inference.engine.task import Examples

ENCODER, HEAD = "encoder.", "head."
"""What names of learned tensors begin with."""


class Classifier(nn.Module):
    """A copy of a base and a linear head over its mean-pooled unit vector; outputs [batch, width]."""

    def __init__(self, base: Base, head: Head, method: Method, recipe: Recipe) -> None:
        super().__init__()
        self.method = method
        # A copy: the probe's features must come from the base as it was.
        self.encoder = method.prepared(base.model, recipe)
        self.views = Views.within(self.encoder, wanted=recipe.views > 1)
        self.head = nn.Linear(head.weight.shape[1], head.weight.shape[0], device=device_of(base.model))
        with torch.no_grad():
            self.head.weight.copy_(head.weight)
            self.head.bias.copy_(head.bias)

    def forward(self, batch: Batch) -> Tensor:
        """Logits of a batch, in fp32 from the pooling on."""
        logits: Tensor = self.head(vectors_of(self.encoder, batch))
        return logits

    def learned(self) -> dict[str, Tensor]:
        """Copies of all that was learned, on the CPU: ``encoder.<name>``, ``head.weight``, ``head.bias``."""
        tensors = learned(self.method.learned(self.encoder), Head(self.head.weight, self.head.bias))
        return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what ``learned`` gave."""
        self.method.restore(self.encoder, of_encoder(tensors))
        with torch.no_grad():
            self.head.weight.copy_(tensors["head.weight"])
            self.head.bias.copy_(tensors["head.bias"])


def learned(encoder: Mapping[str, Tensor], head: Head) -> dict[str, Tensor]:
    """As ``Classifier.restore`` takes them."""
    return {
        **{f"{ENCODER}{name}": t for name, t in encoder.items()},
        "head.weight": head.weight,
        "head.bias": head.bias,
    }


def of_encoder(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a method learned, by its own names."""
    return {name.removeprefix(ENCODER): tensor for name, tensor in tensors.items() if name.startswith(ENCODER)}


def vectors_of(encoder: nn.Module, batch: Batch) -> Tensor:
    """Mean-pooled unit vectors [batch, hidden] in fp32, where the encoder is."""
    ids, mask = (each.to(device_of(encoder)) for each in (batch.input_ids, batch.attention_mask))
    with autocast():
        hidden = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    return mean_pooled(hidden.float(), mask)


def evaluate_logits(model: Classifier, examples: Examples) -> Tensor:
    """Outputs [rows, width] in the examples' order."""
    return logits_of(model.eval().encoder, Head(model.head.weight.cpu(), model.head.bias.cpu()), examples)


@torch.no_grad()
def logits_of(encoder: nn.Module, head: Head, examples: Examples) -> Tensor:
    """[rows, width] in the examples' order."""
    logits = torch.zeros(len(examples), len(head.bias))
    for batch in by_length(examples, EVALUATION_BATCH):
        logits[batch.rows] = head.logits(vectors_of(encoder, batch).cpu())
    return logits
