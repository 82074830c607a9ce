"""LoRA on every linear layer of an encoder with a head on top: the model while it learns, and its steps."""

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

from inference.adapters.pooling import mean_pooled
from inference.engine.base_models import Base
from inference.engine.batches import Batch, by_length
from inference.engine.encoder import EVALUATION_BATCH
from inference.engine.heads import Head, linear_names
from inference.engine.limits import ran_out
from inference.engine.objectives.objective import Objective
from inference.engine.precision import autocast
from inference.engine.recipe import Recipe
from inference.engine.task import Examples

HEAD_LEARNING_RATE = 1e-2
WEIGHT_DECAY = 0.01
LABEL_SMOOTHING = 0.1
WARM_UP = 0.06
CLIP = 1.0


class Classifier(nn.Module):
    """A base with LoRA and a linear head over the mean-pooled unit vector; outputs [batch, width]."""

    def __init__(self, base: Base, head: Head, rank: int) -> None:
        super().__init__()
        self.config = LoraConfig(r=rank, lora_alpha=2 * rank, bias="none", target_modules=linear_names(base.model))
        # A copy: the probe's features must come from the base as it was.
        self.encoder = get_peft_model(copy.deepcopy(base.model), self.config)
        self.head = nn.Linear(head.weight.shape[1], head.weight.shape[0])
        with torch.no_grad():
            self.head.weight.copy_(head.weight)
            self.head.bias.copy_(head.bias)

    def forward(self, batch: Batch) -> Tensor:
        """Logits of a batch, in fp32 from the pooling on."""
        with autocast():
            hidden = self.encoder(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        logits: Tensor = self.head(mean_pooled(hidden.float(), batch.attention_mask))
        return logits

    def lora_tensors(self) -> dict[str, Tensor]:
        """The adapter under peft's names, as peft saves it."""
        return dict(get_peft_model_state_dict(self.encoder))

    def learned(self) -> dict[str, Tensor]:
        """Copies of everything that was learned: ``lora.<peft's name>``, ``head.weight``, ``head.bias``."""
        tensors = {f"lora.{name}": tensor for name, tensor in self.lora_tensors().items()}
        tensors |= {"head.weight": self.head.weight, "head.bias": self.head.bias}
        return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}

    def restore(self, learned: dict[str, Tensor]) -> None:
        """Takes over what ``learned`` gave."""
        lora = {name.removeprefix("lora."): t for name, t in learned.items() if name.startswith("lora.")}
        set_peft_model_state_dict(self.encoder, lora)
        with torch.no_grad():
            self.head.weight.copy_(learned["head.weight"])
            self.head.bias.copy_(learned["head.bias"])


@dataclass
class Run:
    """A model being trained: optimiser and schedule; one ``step`` per batch.

    Nothing is dropped out: on a CPU the random masks cost 40 % of a step, and label smoothing regularises without them.
    """

    model: Classifier
    recipe: Recipe
    objective: Objective
    steps: int
    """Optimiser steps in all."""
    rows_at_once: int = 1 << 30
    """Rows that go forward and back together; a batch's gradients add up over its parts."""
    optimiser: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        lora = [part for part in self.model.encoder.parameters() if part.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": lora, "lr": self.recipe.learning_rate, "peak": self.recipe.learning_rate},
            {"params": list(self.model.head.parameters()), "lr": HEAD_LEARNING_RATE, "peak": HEAD_LEARNING_RATE},
        ]
        self.optimiser = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)

    def step(self, batch: Batch, number: int) -> float:
        """One optimiser step (``number`` counts from 0); the batch's mean loss."""
        self.model.eval()
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * schedule(number, self.steps)
        loss = self._gradients(batch)
        while loss is None:
            loss = self._gradients(batch)
        trained = [part for group in self.optimiser.param_groups for part in group["params"]]
        nn.utils.clip_grad_norm_(trained, CLIP)
        self.optimiser.step()
        return loss

    def _gradients(self, batch: Batch) -> float | None:
        """The batch's mean loss, its gradients laid down; None if memory ran out: then half the rows go at once."""
        self.optimiser.zero_grad()
        try:
            return sum(self._part(part, len(batch.rows)) for part in batch.parts(self.rows_at_once))
        except (MemoryError, RuntimeError) as error:
            rows = min(self.rows_at_once, len(batch.rows))
            if rows == 1 or not ran_out(error):
                raise
        self.rows_at_once = rows // 2
        return None

    def _part(self, part: Batch, rows: int) -> float:
        """A part's share of the mean over all rows of its batch."""
        outputs = self.model(part)
        loss = self.objective.loss(outputs, part.targets, smoothing=LABEL_SMOOTHING).sum() / rows
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.item())


def schedule(step: int, steps: int) -> float:
    """Linear warm-up over the first WARM_UP of the steps, then a cosine to zero."""
    warm = max(1, int(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@torch.no_grad()
def evaluate_logits(model: Classifier, examples: Examples) -> Tensor:
    """Outputs [rows, width] in the examples' order."""
    model.eval()
    logits = torch.zeros(len(examples), model.head.out_features)
    for batch in by_length(examples, EVALUATION_BATCH):
        logits[batch.rows] = model(batch)
    return logits
