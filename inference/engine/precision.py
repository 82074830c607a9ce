"""Where this process computes, on its GPU if it has one; and in which precision fast: bf16 where that is built in."""

import os
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import nn


@cache
def device() -> torch.device:
    """Where base models are loaded, and what learns on them: the first GPU that this process may use, or the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def device_of(model: nn.Module) -> torch.device:
    """Where a model's weights lie: there its inputs are brought, and from there its outputs."""
    return next(model.parameters()).device


@cache
def has_fast_bf16() -> bool:
    """True if bf16 products are done in hardware; emulated bf16 is slower than fp32."""
    if device().type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast() -> AbstractContextManager[object]:
    """bf16 autocast where it pays, else nothing."""
    return torch.autocast(device().type, dtype=torch.bfloat16) if has_fast_bf16() else nullcontext()


@cache
def device_name() -> str:
    """``cpu:0`` or ``cuda:<uuid>``: the device that a span bills, by a name that no other GPU of the cluster has."""
    if device().type == "cuda":
        return f"cuda:{torch.cuda.get_device_properties(device()).uuid}"
    return "cpu:0"


def repeatable() -> None:
    """A GPU computes the same from the same, at some cost, so that a resumed job is the one that was paused."""
    if device().type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it begins
        torch.use_deterministic_algorithms(True, warn_only=True)


def served_dtype(precision: str) -> torch.dtype:
    """In which a host keeps base and adapters: ``auto`` is bf16 where it is fast."""
    half = precision == "bf16" or (precision == "auto" and has_fast_bf16())
    return torch.bfloat16 if half else torch.float32
