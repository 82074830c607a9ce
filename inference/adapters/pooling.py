"""From hidden states to one vector per row: mean over real tokens, length one."""

from torch import Tensor
from torch.nn import functional


def mean_pooled(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Unit vectors [batch, hidden] from hidden [batch, seq, hidden] and attention_mask [batch, seq]."""
    weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=1)
