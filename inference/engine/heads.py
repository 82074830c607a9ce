"""A linear head, and the files of an encoder's adapter with it: what the probe and LoRA leave behind alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from safetensors.torch import load, save
from torch import Tensor, nn

from inference.adapters.folder import HEAD
from inference.adapters.lora import PEFT_PREFIX
from inference.engine.base_models import Base


@dataclass(frozen=True)
class Head:
    """A linear head: weight [width, hidden], bias [width]."""

    weight: Tensor
    bias: Tensor

    def logits(self, vectors: Tensor) -> Tensor:
        """[rows, width] of vectors [rows, hidden]."""
        return vectors @ self.weight.T + self.bias


def linear_names(model: nn.Module) -> list[str]:
    """Full names of the linear layers that LoRA adapts: all of the encoder's, not the pooler's."""
    return [name for name, part in model.named_modules() if isinstance(part, nn.Linear) and "pooler" not in name]


def adapter_config(config: PeftConfig, base: Base) -> dict[str, Any]:
    """peft's configuration as it is saved beside the weights: its sets become sorted lists."""
    facts = config.to_dict()
    facts |= {"base_model_name_or_path": base.id, "inference_mode": True}
    return {key: sorted(value) if isinstance(value, set) else value for key, value in facts.items()}


def head_file(head: Head) -> dict[str, bytes]:
    """The file of a head."""
    return {HEAD: save({"weight": head.weight.contiguous(), "bias": head.bias.contiguous()})}


def read_head(files: Mapping[str, bytes]) -> Head:
    """The head of such files."""
    return Head(**load(files[HEAD]))


def unchanged(base: Base) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and configuration of an adapter that changes nothing: a probe's folder, too, is one that peft loads."""
    name = linear_names(base.model)[0]
    linear = base.model.get_submodule(name)
    width: tuple[int, int] = tuple(linear.weight.shape)  # type: ignore[arg-type]
    config = LoraConfig(r=1, lora_alpha=1, bias="none", target_modules=[name])
    at = f"{PEFT_PREFIX}{name}"
    zeros = {f"{at}.lora_A.weight": torch.zeros(1, width[1]), f"{at}.lora_B.weight": torch.zeros(width[0], 1)}
    return zeros, adapter_config(config, base)
