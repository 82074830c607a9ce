"""The first answer of an adapter that has no slot: from host memory and from disk, with few and with many loaded."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import uvloop

from inference.adapters.folder import AdapterFolder, read_folder
from inference.engine import limits
from inference.engine.base_models import Base
from tests.bench.adapter_rig import Host, minilm, missing, packed_of
from tests.inference.adapter_world import make_version
from tests.inference.conftest import Place

NAME = "cold_adapter"
TRIES = 12
"""Cold adapters of each kind, each asked once; a third of it in the short form."""
TOKENS = 16


def run(*, full: bool) -> list[dict[str, str]]:
    """One line for each number of loaded adapters; every try is another adapter."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    limits.keep_freed()
    base, lines, tries = minilm(), [], TRIES if full else TRIES // 3
    with tempfile.TemporaryDirectory() as folder:
        stored = in_storage(base, Place(Path(folder)), tries)
        for loaded in (10, 100, 1000) if full else (10, 100):
            lines.append(uvloop.run(measured(base, loaded, stored, tries)))
    return lines


def in_storage(base: Base, place: Place, count: int) -> dict[str, Callable[[], AdapterFolder]]:
    """Sealed folders of adapters on all linear layers, and how each is read, by digest."""
    refs = [make_version(base, place, 15 + 16 * number, rank=16, texts=()).ref for number in range(count)]

    def read(ref: int) -> AdapterFolder:
        grant, storage = refs[ref].folder, place.storage
        return read_folder({name: storage.read(grant, name) for name in storage.names(grant)})

    return {ref.digest: partial(read, number) for number, ref in enumerate(refs)}


async def measured(
    base: Base, loaded: int, stored: dict[str, Callable[[], AdapterFolder]], tries: int
) -> dict[str, str]:
    """A host whose slots are all taken; each cold adapter takes one from the least recently used."""
    host = Host(base, loaded)
    adapters = packed_of(base, host, loaded + tries)
    host.register(adapters)
    ids = [list(range(1000, 1000 + TOKENS))]

    async def answer(digest: str, fetch: Callable[[], AdapterFolder]) -> float:
        started = time.perf_counter()
        await host.batcher.rows("customer", digest, fetch, ids, 60)
        return 1000 * (time.perf_counter() - started)

    warm = [await answer(adapters[loaded - 1].digest, missing) for _ in range(tries)]
    memory = [await answer(packed.digest, missing) for packed in adapters[loaded:]]
    disk = [await answer(digest, fetch) for digest, fetch in stored.items()]
    return {
        "loaded": f"{loaded:,}", "in a slot ms": shown(warm), "from host memory ms": shown(memory),
        "from disk ms": shown(disk), "goal": "≤ 50 and ≤ 500, flat",
    }  # fmt: skip


def shown(spent: list[float]) -> str:
    """Median and worst."""
    return f"{statistics.median(spent):.0f} ({max(spent):.0f})"
