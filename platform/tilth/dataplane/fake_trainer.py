"""A trainer that learns nothing but reports, writes and ends as a real one does, by a script."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from tilth.contract.digest import MANIFEST, folder_digest
from tilth.contract.messages import TERMINAL, EventKind, Grant, JobSpec, JobState, TrainerEvent
from tilth.contract.sealing import seal, unsealed
from tilth.dataplane.port import StopMode


@dataclass(frozen=True)
class Script:
    """How an attempt goes."""

    steps: int = 20
    checkpoint_every: int = 5
    step_s: float = 0.0
    outcome: EventKind = EventKind.SUCCEEDED
    base_model: str | None = None
    """That the model says it was learned on; None: the job's own."""
    dies_after: int | None = None
    """Killed after this step: lost, nothing closed."""
    hangs_after: int | None = None
    """Stopped after this step: still believed to run, says nothing more."""
    late_s: float = 0.0
    """Its events can be read only this much later."""


Line = tuple[EventKind, str, dict[str, Any]]


class FakeTrainer:
    """One attempt; time passes when somebody looks."""

    def __init__(self, spec: JobSpec, script: Script, device: str) -> None:
        self.spec = spec
        self.script = script
        self.device = device
        self.events: list[TrainerEvent] = []
        self.state = JobState.RUNNING
        self._born = time.monotonic()
        self._stop: StopMode | None = None
        self._step = _resumed_step(spec.resume)
        self._lines = self._story()
        self._due = 0.0

    def advance(self) -> None:
        """Does everything that is due by now."""
        while self.state is JobState.RUNNING and (self._due <= self._elapsed() or self._stop):
            line = next(self._lines, None)
            if line is None:
                self._end()
                return
            self._emit(*line)

    def stop(self, mode: StopMode) -> None:
        """Heard before the next step."""
        if self.script.hangs_after is None or self._step < self.script.hangs_after:
            self._stop = self._stop or mode

    def kill(self) -> None:
        """As by SIGKILL: what it wrote stays."""
        if self.state is JobState.RUNNING:
            self.state = JobState.LOST

    def readable(self) -> list[TrainerEvent]:
        """The events that have reached storage."""
        seen_ms = int((time.time() - self.script.late_s) * 1000)
        return [event for event in self.events if event.at_ms <= seen_ms]

    def _elapsed(self) -> float:
        return time.monotonic() - self._born

    def _end(self) -> None:
        hangs = self.script.hangs_after is not None and not self._ended()
        if hangs:
            self._due = float("inf")
            self._stop = None
        elif self.script.dies_after is not None and not self._ended():
            self.state = JobState.LOST
        else:
            self.state = JobState.FINISHED

    def _ended(self) -> bool:
        return any(event.kind in TERMINAL for event in self.events)

    def _emit(self, kind: EventKind, message: str, data: dict[str, Any]) -> None:
        level: Literal["info", "error"] = "error" if kind is EventKind.FAILED else "info"
        self.events.append(
            TrainerEvent(
                job=self.spec.job,
                attempt=self.spec.attempt,
                seq=len(self.events) + 1,
                at_ms=int(time.time() * 1000),
                kind=kind,
                level=level,
                message=message,
                data=data,
            )
        )

    def _story(self) -> Iterator[Line]:
        yield EventKind.SPAN_OPENED, "", {"device": self.device, "share_millis": self.spec.share_millis}
        yield EventKind.STARTED, "Training started", {"resumed_from_step": self._step}
        while self._step < self.script.steps:
            if self._step in (self.script.dies_after, self.script.hangs_after):
                return
            if self._stop or self._device_ms() >= self.spec.max_device_ms:
                break
            self._due += self.script.step_s
            self._step += 1
            yield from self._one_step()
        yield from self._ending()

    def _one_step(self) -> Iterator[Line]:
        step, total = self._step, self.script.steps
        loss = round(2.0 / step, 4)
        facts = {"rung": "lora", "step": step, "total_steps": total, "train_loss": loss, "progress": step / total}
        yield EventKind.METRICS, f"Step {step}/{total}: training loss={loss}", facts
        yield EventKind.HEARTBEAT, "", {"device_ms": self._device_ms()}
        if step % self.script.checkpoint_every == 0:
            yield self._checkpoint()

    def _checkpoint(self) -> Line:
        files = {"state.json": json.dumps({"step": self._step}).encode()}
        digest = self._write(f"checkpoints/{self._step}", files)
        metrics = {"step": self._step, "train_loss": round(2.0 / self._step, 4), "valid_loss": 0.5}
        data = {"step": self._step, "rung": "lora", "path": f"checkpoints/{self._step}/", "digest": digest}
        return EventKind.CHECKPOINT, f"Checkpoint at step {self._step}", {**data, "metrics": metrics}

    def _ending(self) -> Iterator[Line]:
        match self._stop, self.script.outcome:
            case "pause", _:
                if self._step % self.script.checkpoint_every:
                    yield self._checkpoint()
                yield EventKind.PAUSED, f"Paused at step {self._step}", {"step": self._step}
            case "cancel", _:
                yield EventKind.CANCELLED, "Cancelled", {}
            case _, EventKind.FAILED:
                yield EventKind.FAILED, "The loss is not a number", {"code": "diverged", "message": "The loss is NaN"}
            case _:
                yield self._success()
        yield EventKind.SPAN_CLOSED, "", {"device_ms": self._device_ms(), "reason": "exit"}

    def _success(self) -> Line:
        files = {"features.json": b'{"labels": ["a", "b"]}', "README.md": b"# A model that knows nothing\n"}
        digest = self._write("model", files)
        metrics = {"accuracy": 0.9, "macro_f1": 0.89}
        board = [{"name": "lora", "rung": "lora", "metric": "accuracy", "score": 0.9, "interval": [0.85, 0.95]}]
        report = {"rung": "lora", "test": metrics, "leaderboard": board}
        data = {"path": "model/", "digest": digest, "metrics": metrics, "report": report}
        return EventKind.SUCCEEDED, "Training finished", data

    def _write(self, folder: str, files: dict[str, bytes]) -> str:
        """A folder below the attempt's prefix, its manifest last; returns the digest."""
        key, place = bytes.fromhex(self.spec.output.key), _local(self.spec.output) / folder
        place.mkdir(parents=True, exist_ok=True)
        names = {name: sha256(content).hexdigest() for name, content in files.items()}
        digest = folder_digest(names)
        for name, content in files.items():
            (place / name).write_bytes(seal(content, key))
        base = self.script.base_model or self.spec.base_model
        facts = {"vertical": self.spec.vertical, "base_model": base, "rung": "lora"}
        manifest = {"files": names, "digest": digest, "format": 1, **facts}
        (place / MANIFEST).write_bytes(seal(json.dumps(manifest).encode(), key))
        return digest

    def _device_ms(self) -> int:
        return int(self._elapsed() * 1000)


def _resumed_step(grant: Grant | None) -> int:
    if grant is None:
        return 0
    with (_local(grant) / "state.json").open("rb") as file:
        return int(json.loads(b"".join(unsealed(file, bytes.fromhex(grant.key))))["step"])


def _local(grant: Grant) -> Path:
    return Path(urlsplit(grant.url).path)
