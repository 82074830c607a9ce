"""Memory of the GPU that this process computes on; without one there is no limit here."""

import contextlib
from collections.abc import Iterator

import torch

from inference.engine.precision import device

UNLIMITED = 1 << 60


def memory() -> int:
    """Bytes that it has in all."""
    return int(torch.cuda.get_device_properties(device()).total_memory) if device().type == "cuda" else UNLIMITED


def growth(limit: int) -> int:
    """Bytes that this process may still allocate there: up to a limit, and no more than others leave."""
    if device().type != "cuda":
        return UNLIMITED
    free, _ = torch.cuda.mem_get_info(device())
    held = torch.cuda.memory_allocated(device())
    return min(limit - held, free + torch.cuda.memory_reserved(device()) - held)


@contextlib.contextmanager
def capped(by: int) -> Iterator[None]:
    """This process may allocate so many bytes more there; beyond, torch says that it is out of memory."""
    if device().type != "cuda":
        yield
        return
    torch.cuda.empty_cache()  # what is kept but not used would count as used
    share = (torch.cuda.memory_reserved(device()) + by) / memory()
    torch.cuda.set_per_process_memory_fraction(min(1.0, share), device())
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device())
