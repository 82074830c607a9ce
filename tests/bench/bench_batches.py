"""One who waits for an answer beside a batch: how much longer, and how fast the batch is, by the rows of its calls.

The product picks the rows by the time that a call takes (``tilth.batches.pace``); here they are fixed, to show why.
"""

import asyncio
import statistics
import time
from dataclasses import dataclass, field

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tilth.batches.pace import AT_ONCE, CALL_ROWS
from tilth.contract.messages import EmbedRequest
from tilth.contract.registry import vertical

from inference.adapters.service import BaseService
from inference.engine.base_models import Base, load_base
from inference.storage import Storage

NAME = "batches"
TEXT = "I ordered a pair of shoes two weeks ago and the parcel has still not come, can you tell me where it is"
ASKED = (6, 300)
"""Single questions of each way, short and full."""
ROWS = (0, 2, 8, CALL_ROWS)
"""Of a batch's call; 0: no batch."""
DEADLINE_MS = 600_000


@dataclass
class Seen:
    """Of one way."""

    waits_s: list[float] = field(default_factory=list)
    batch_rows: int = 0
    seconds: float = 0.0


def run(*, full: bool) -> list[dict[str, str]]:
    """MiniLM on texts of 25 tokens, on one thread: two on a busy machine wait for each other."""
    torch.set_num_threads(1)
    seen = asyncio.run(all_ways(load_base(vertical("support_chat").base_models[0]), ASKED[full]))
    return [shown(rows, each, seen[0]) for rows, each in seen.items()]


async def all_ways(base: Base, asked: int) -> dict[int, Seen]:
    """By one service, one way after the other."""
    service = BaseService(base, Storage(Ed25519PrivateKey.generate().public_key()), slots=2)
    return {rows: await beside(service, rows, asked) for rows in ROWS}


async def beside(service: BaseService, rows: int, asked: int) -> Seen:
    """Single questions, one after the other, while AT_ONCE calls of so many rows are always under way."""
    seen, over = Seen(), asyncio.Event()
    batches = [asyncio.create_task(batch(service, rows, seen, over)) for _ in range(AT_ONCE if rows else 0)]
    await ask(service, "one", 1)
    started = time.perf_counter()
    for _ in range(asked):
        at = time.perf_counter()
        await ask(service, "one", 1)
        seen.waits_s.append(time.perf_counter() - at)
    seen.seconds = time.perf_counter() - started
    over.set()
    await asyncio.gather(*batches)
    return seen


async def batch(service: BaseService, rows: int, seen: Seen, over: asyncio.Event) -> None:
    while not over.is_set():
        await ask(service, "batch", rows)
        seen.batch_rows += rows


async def ask(service: BaseService, flow: str, rows: int) -> None:
    texts = (TEXT,) * rows
    await service.embed(EmbedRequest(flow=flow, base_model="minilm-l6", texts=texts, deadline_ms=DEADLINE_MS))


def shown(rows: int, seen: Seen, alone: Seen) -> dict[str, str]:
    """Medians and 95th percentiles, with the ratio to nobody else being there."""
    p50, p95 = statistics.median(seen.waits_s), statistics.quantiles(seen.waits_s, n=20)[-1]
    return {
        "rows of a call": f"{rows}" if rows else "no batch", "calls at once": f"{AT_ONCE if rows else 0}",
        "one waits, p50 ms": f"{1000 * p50:.1f}", "p95 ms": f"{1000 * p95:.1f}",
        "p50 : alone": f"{p50 / statistics.median(alone.waits_s):.1f}",
        "batch rows/s": f"{seen.batch_rows / seen.seconds:,.0f}" if rows else "",
    }  # fmt: skip
