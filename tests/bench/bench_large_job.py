"""A whole job over texts larger than the memory it may take: what it really took, how long it was at work."""

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import duckdb
import torch
from tilth.contract import registry, sealing
from tilth.contract.learning import Rung
from tilth.contract.messages import JobSpec, TrainingOptions
from tilth.contract.vertical import BaseModelOffer

from inference.engine import limits
from inference.engine.base_models import load_base
from inference.engine.job import run_job
from tests.inference.attempts import tiny_face
from tests.inference.conftest import WORDS, Place, save_bases

NAME = "large_job"
MIB = 1 << 20
WORDS_EACH = 180
"""Of a row: a thousand characters or so."""


@dataclass(frozen=True)
class Size:
    """Rows, and MiB that the job may take beyond the process with its base model loaded."""

    rows: int
    limit_mb: int


def run(*, full: bool) -> list[dict[str, str]]:
    """In a process of its own."""
    size = Size(400_000, 256) if full else Size(20_000, 256)
    done = subprocess.run([sys.executable, "-W", "ignore", __file__, json.dumps(asdict(size))], capture_output=True)
    if done.returncode:
        raise RuntimeError(done.stderr.decode()[-3000:])
    return [json.loads(done.stdout.splitlines()[-1])]


def prepared(root: Path, rows: int) -> tuple[str, int]:
    """A frozen version of so many rows of random words, some of them their label's; (its SHA-256, characters)."""
    target = root / "rows.parquet"
    words = "', '".join(WORDS)
    word = f"list_element(['{words}'], 1 + (hash(i * {WORDS_EACH + 1} + x) % {len(WORDS)})::INT)"
    duckdb.execute(
        f"""COPY (SELECT i + 1 AS line, 'label ' || (hash(i) % 10) AS label,
        CASE i % 10 WHEN 0 THEN 'test' WHEN 5 THEN 'validation' ELSE 'train' END AS split,
        list_element(['{words}'], 1 + (hash(i) % 10)::INT) || ' ' || list_element(['{words}'], 1 + (hash(i) % 10)::INT)
          || ' ' || array_to_string(list_transform(range({WORDS_EACH}), lambda x: {word}), ' ') AS text
        FROM range({rows}) made(i)) TO '{target}'"""
    )
    found = duckdb.execute(f"SELECT sum(length(text)) FROM '{target}'").fetchone()
    content = target.read_bytes()
    target.write_bytes(sealing.seal(content, bytes(32)))
    return hashlib.sha256(content).hexdigest(), int(found[0]) if found else 0


def work(size: Size, root: Path) -> dict[str, str]:
    """The job, as a trainer runs it."""
    torch.set_num_threads(2)
    limits.keep_freed()
    with ProcessPoolExecutor(1, get_context("spawn")) as other:  # what making the rows takes is not the job's
        digest, characters = other.submit(prepared, root, size.rows).result()
    offer = BaseModelOffer(id="tiny", title="Tiny", source="local:tiny", licence="apache-2.0", memory_mb=1)
    registry.verticals = lambda: {"tiny": tiny_face(offer)}  # type: ignore[assignment]
    save_bases(root)
    base, place = load_base(offer, root), Place(root)
    spec = JobSpec(
        job="j", attempt=1, flow="f", vertical="tiny", base_model="tiny", max_device_ms=7_200_000,
        rows=place.grant("rows.parquet", sha256=digest, life_s=7200), output=place.grant("1/", "write", life_s=7200),
        options=TrainingOptions(highest_rung=Rung.PROBE),
    )  # fmt: skip
    Path("/proc/self/clear_refs").write_text("5")
    start, began = limits.resident(), time.monotonic()
    ended = run_job(
        spec, storage=place.storage, stop=lambda: None, base=lambda _: base, heartbeat_s=5,
        memory=start + size.limit_mb * MIB,
    )  # fmt: skip
    seconds = time.monotonic() - began
    last = next(event for event in reversed(place.events("1")) if event.kind is ended)
    metrics = last.data.get("metrics")
    found = metrics.get("accuracy", "") if isinstance(metrics, dict) else last.message
    return {
        "rows": f"{size.rows:,}", "text MiB": f"{characters / MIB:,.0f}",
        "limit MiB": str(size.limit_mb), "peak MiB": f"{(limits.peak() - start) / MIB:,.0f}", "ended": ended.value,
        "s": f"{seconds:.0f}", "accuracy": str(found),
    }  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="tilth-l-") as folder:
        print(json.dumps(work(Size(**json.loads(sys.argv[1])), Path(folder))))
