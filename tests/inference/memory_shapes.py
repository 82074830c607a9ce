"""One job of a given shape in a process of its own: what was predicted of its memory, and what it really took.

The peak is the kernel's own (VmHWM: pages in memory, so an untouched allocation does not count); before the job it is
set back, so that what loading the base model took for a moment does not count either.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MIB = 1 << 20


@dataclass(frozen=True)
class Shape:
    """A job; ``lie`` makes the preflight believe in so small a part of what a batch takes."""

    rows: int
    tokens: int
    classes: int
    rung: str = "lora"
    batch: int | None = None
    memory_mb: int = 0
    """Beyond what is resident at start; 0: no limit but the machine's."""
    lie: float = 1.0

    def name(self) -> str:
        """For a table."""
        batch = f", batch {self.batch or 'auto'}" if self.rung == "lora" else ""
        return f"{self.rung}: {self.rows:,} rows of {self.tokens} tokens, {self.classes} classes{batch}"


@dataclass(frozen=True)
class Measured:
    """Bytes, and how the job ended."""

    predicted: int
    peak: int
    start: int
    ended: str
    last: dict[str, Any]
    rows_at_once: int
    device_ms: int
    wall_ms: int
    said: list[str]


def measure(shape: Shape) -> Measured:
    """In a process of its own."""
    asked = [sys.executable, "-W", "ignore", "-m", "tests.inference.memory_shapes", json.dumps(asdict(shape))]
    done = subprocess.run(asked, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{shape.name()}: {done.returncode}, {done.stderr[-3000:]}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def made_rows(shape: Shape, words: list[str]) -> list[dict[str, str]]:
    """Random words, half of the rows as long as the shape says."""
    chance, rows = random.Random(0), []
    for at in range(shape.rows):
        length = shape.tokens if at % 2 else chance.randint(max(1, shape.tokens // 2), shape.tokens)
        split = {0: "test", 5: "validation"}.get(at % 10, "train")
        label = f"label {at * 7919 // 10 % shape.classes}"
        rows.append({"text": " ".join(chance.choices(words, k=max(1, length - 2))), "label": label, "split": split})
    return rows


def work(shape: Shape, root: Path) -> Measured:
    """The job, as a trainer runs it, with its base model loaded before."""
    import torch
    from tilth.contract.learning import Rung
    from tilth.contract.messages import JobSpec, TrainingOptions
    from tilth.contract.registry import vertical

    from inference.engine import limits, memory
    from inference.engine.base_models import load_base
    from inference.engine.job import run_job
    from tests.inference.conftest import Place

    torch.set_num_threads(2)
    limits.keep_freed()
    base = load_base(vertical("support_chat").base_models[0])
    words = sorted(word for word in base.tokenizer.get_vocab() if word.isalpha() and word.islower() and len(word) > 3)
    place = Place(root)
    memory.SLACK *= shape.lie
    options = TrainingOptions(epochs=1, batch_size=shape.batch, highest_rung=Rung(shape.rung), minimum_gain=0)
    spec = JobSpec(
        job="j", attempt=1, flow="f", vertical="support_chat", base_model="minilm-l6", options=options,
        rows=place.dataset(made_rows(shape, words[:3000])), output=place.grant("1/", "write", life_s=7200),
        max_device_ms=7_200_000,
    )  # fmt: skip
    Path("/proc/self/clear_refs").write_text("5")
    start, began = limits.resident(), time.monotonic()
    limit = start + shape.memory_mb * MIB if shape.memory_mb else None
    ended = run_job(spec, storage=place.storage, stop=lambda: None, base=lambda _: base, heartbeat_s=5, memory=limit)
    wall_ms, peak = int((time.monotonic() - began) * 1000), limits.peak()
    told = place.events("1")
    closed: dict[str, Any] = dict(told[-1].data)
    last: dict[str, Any] = next(dict(event.data) for event in reversed(told) if event.kind.value == ended.value)
    facts: dict[str, Any] = next((dict(event.data) for event in told if "predicted_bytes" in event.data), {})
    return Measured(
        predicted=int(facts.get("predicted_bytes", 0)), peak=peak, start=start, ended=ended.value,
        rows_at_once=int(facts.get("rows_at_once", 0)), last=last,
        device_ms=int(closed["device_ms"]), wall_ms=wall_ms,
        said=[event.message for event in told if event.message],
    )  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="tilth-m-") as folder:
        print(json.dumps(asdict(work(Shape(**json.loads(sys.argv[1])), Path(folder)))))
