"""Attention in fp32 where something learns in bf16 on a CPU: torch's bf16 kernel goes back far more slowly there.

Forward and back over 32 rows of 16 tokens took it 26 ms, in fp32 1.4 ms, and more than half of a training step (torch
2.13, AVX512-BF16 with AMX); where nothing learns the two are alike.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_that_learns"


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' attention function over [batch, heads, seq, width]."""
    if not query.requires_grad or query.dtype is not torch.bfloat16 or query.device.type != "cpu":
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    mask = (
        attention_mask.float() if attention_mask is not None and attention_mask.is_floating_point() else attention_mask
    )
    with torch.autocast("cpu", enabled=False):
        found, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), mask, **options)
    return found.to(query.dtype), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


def learns_fast(model: PreTrainedModel) -> PreTrainedModel:
    """The model with this attention, if it leaves the choice to us."""
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(NAME)
    return model
