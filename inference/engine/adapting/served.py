"""An adapted encoder as a whole model: the base's parameters with those that differ in their place."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from tilth.contract import learning
from tilth.contract.messages import Row
from torch import Tensor, nn
from torch.func import functional_call

from inference.adapters.pooling import mean_pooled
from inference.engine.adapting.methods import METHODS
from inference.engine.base_models import Base
from inference.engine.batches import padded
from inference.engine.encoder import EVALUATION_BATCH, Encode
from inference.engine.heads import Head, read_head
from inference.engine.precision import autocast, device_of, has_fast_bf16
from inference.engine.task import Answered


@dataclass(frozen=True)
class WholeEncoder:
    """Shares with others what of the base it has not changed."""

    base: Base
    encode: Encode
    changed: Mapping[str, Tensor]
    head: Head

    @property
    def held(self) -> int:
        """Bytes of its own."""
        return sum(tensor.nbytes for tensor in (*self.changed.values(), self.head.weight, self.head.bias))

    @torch.inference_mode()
    def answer(self, rows: Sequence[Row]) -> Answered:
        """Logits, rows of alike length together."""
        ids = self.encode(rows)
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        outputs = torch.zeros(len(ids), len(self.head.bias))
        for start in range(0, len(order), EVALUATION_BATCH):
            batch = order[start : start + EVALUATION_BATCH]
            outputs[batch] = self.head.logits(self._vectors([ids[row] for row in batch]))
        return Answered(outputs, tuple(map(len, ids)))

    def _vectors(self, ids: list[list[int]]) -> Tensor:
        input_ids, mask = (each.to(device_of(self.base.model)) for each in padded(ids))
        inputs = {"input_ids": input_ids, "attention_mask": mask}
        with autocast():
            found = functional_call(self.base.model, dict(self.changed), kwargs=inputs)
        return mean_pooled(found.last_hidden_state.float(), mask).cpu()


def whole_encoder(
    method: learning.Method, files: Mapping[str, bytes], base: Callable[[], Base], encode: Callable[[Base], Encode]
) -> WholeEncoder:
    """The model of a method's files; matrices are kept in the precision in which they are multiplied."""
    there = base()
    changed = METHODS[method].merged(files, there)
    linear = {f"{name}.weight" for name, part in there.model.named_modules() if isinstance(part, nn.Linear)}
    half = {name for name in linear if has_fast_bf16()}
    kept = {
        name: tensor.to(device_of(there.model), torch.bfloat16 if name in half else None)
        for name, tensor in changed.items()
    }
    return WholeEncoder(there, encode(there), kept, read_head(files))
