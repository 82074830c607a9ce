"""A trainer's append-only spool: numbered events, in storage before anybody is told."""

import json
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol

from tilth.contract.messages import EventKind, Grant, TrainerEvent


class Writes(Protocol):
    """The part of Storage that the spool needs."""

    def write(self, grant: Grant, name: str, data: bytes) -> None:
        """Writes one object whole."""


class Spool:
    """One writer per attempt; each event is one object ``events/<seq, 10 digits>.json``; seq starts at 1, no gaps."""

    def __init__(
        self, storage: Writes, grant: Grant, job: str, attempt: int, now: Callable[[], float] = time.time
    ) -> None:
        self._storage = storage
        self._grant = grant
        self._job = job
        self._attempt = attempt
        self._now = now
        self._seq = 0
        self._lock = threading.Lock()

    def emit(
        self,
        kind: EventKind,
        message: str = "",
        *,
        level: Literal["info", "warn", "error"] = "info",
        data: dict[str, Any] | None = None,
    ) -> TrainerEvent:
        """Numbers and writes an event; it is in storage when this returns."""
        with self._lock:
            event = TrainerEvent(
                job=self._job, attempt=self._attempt, seq=self._seq + 1, at_ms=int(self._now() * 1000),
                kind=kind, level=level, message=message, data=data or {},
            )  # fmt: skip
            body = json.dumps([event.model_dump(mode="json")]).encode()
            self._storage.write(self._grant, f"events/{event.seq:010d}.json", body)
            self._seq = event.seq
        return event
