"""One job of a given shape in a process of its own: what was predicted of its memory, and what it really took.

The peak is the kernel's own (VmHWM: pages in memory, so an untouched allocation does not count); before the job it is
set back, so that what loading the base model took for a moment does not count either.
"""

import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

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


def dataset(root: Path, shape: Shape, words: list[str]) -> Path:
    """Rows of random words, half of them as long as the shape says."""
    import duckdb

    chance = random.Random(0)
    with (root / "rows.jsonl").open("w") as file:
        for at in range(shape.rows):
            least = max(1, shape.tokens // 2)
            length = max(1, (shape.tokens if at % 2 else chance.randint(least, shape.tokens)) - 2)
            split = {0: "test", 5: "validation"}.get(at % 10, "train")
            label = f"label {at * 7919 // 10 % shape.classes}"
            text = " ".join(chance.choices(words, k=length))
            file.write(json.dumps({"line": at + 1, "text": text, "label": label, "split": split}) + "\n")
    source = f"SELECT * FROM read_json('{root}/rows.jsonl', format='newline_delimited')"
    duckdb.execute(f"COPY ({source}) TO '{root}/rows.parquet'")
    return root / "rows.parquet"


def work(shape: Shape, root: Path) -> Measured:
    """The job, as a trainer runs it, with its base model loaded before."""
    import torch
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from tilth.contract.messages import Grant, JobSpec, Rung, TrainerEvent, TrainingOptions
    from tilth.contract.registry import vertical

    from inference.engine import ladder, limits, memory
    from inference.engine.base_models import load_base
    from inference.engine.job import run_job
    from inference.storage import Storage

    torch.set_num_threads(2)
    base = load_base(vertical("support_chat").base_models[0])
    words = sorted(word for word in base.tokenizer.get_vocab() if word.isalpha() and word.islower() and len(word) > 3)
    file, key = dataset(root, shape, words[:3000]), Ed25519PrivateKey.generate()
    ladder.error_upper_bound = lambda *_: 1.0  # climb in any case
    memory.SLACK *= shape.lie

    def grant(name: str, method: Literal["read", "write"], sha256: str | None = None) -> Grant:
        plain = Grant(url=f"file://{root}/{name}", method=method, sha256=sha256, expires_at=int(time.time()) + 7200)
        return plain.model_copy(update={"signature": key.sign(plain.signed_bytes()).hex()})

    options = TrainingOptions(epochs=1, batch_size=shape.batch, highest_rung=Rung(shape.rung), minimum_gain=0)
    spec = JobSpec(
        job="j", attempt=1, flow="f", vertical="support_chat", base_model="minilm-l6", output=grant("1/", "write"),
        rows=grant(file.name, "read", hashlib.sha256(file.read_bytes()).hexdigest()), max_device_ms=7_200_000,
        options=options,
    )  # fmt: skip
    Path("/proc/self/clear_refs").write_text("5")
    start, began = limits.resident(), time.monotonic()
    limit = start + shape.memory_mb * MIB if shape.memory_mb else None
    ended = run_job(
        spec, storage=Storage(key.public_key()), stop=lambda: None, base=lambda _: base, heartbeat_s=5, memory=limit
    )
    wall_ms, peak = int((time.monotonic() - began) * 1000), limits.peak()
    told = [
        TrainerEvent.model_validate(each)
        for event in sorted((root / "1" / "events").glob("*.json"))
        for each in json.loads(event.read_text())
    ]
    facts = next((dict(event.data) for event in told if "predicted_bytes" in event.data), {})
    return Measured(
        predicted=int(facts.get("predicted_bytes", 0)), peak=peak, start=start, ended=ended.value,
        rows_at_once=int(facts.get("rows_at_once", 0)), last=dict(told[-2].data),
        device_ms=int(told[-1].data["device_ms"]), wall_ms=wall_ms,
        said=[event.message for event in told if event.message],
    )  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="tilth-m-") as folder:
        print(json.dumps(asdict(work(Shape(**json.loads(sys.argv[1])), Path(folder)))))
