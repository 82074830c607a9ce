"""Which precision this machine computes fast in: bf16 where the CPU or GPU has it, else fp32."""

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch


@cache
def has_fast_bf16() -> bool:
    """True if bf16 products are done in hardware; emulated bf16 is slower than fp32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast() -> AbstractContextManager[object]:
    """bf16 autocast where it pays, else nothing."""
    if not has_fast_bf16():
        return nullcontext()
    return torch.autocast("cuda" if torch.cuda.is_available() else "cpu", dtype=torch.bfloat16)


def device_name() -> str:
    """``cpu:0`` or ``cuda:<index>``: the device that a span bills."""
    return f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu:0"


def served_dtype(precision: str) -> torch.dtype:
    """In which a host keeps base and adapters: ``auto`` is bf16 where it is fast."""
    half = precision == "bf16" or (precision == "auto" and has_fast_bf16())
    return torch.bfloat16 if half else torch.float32
