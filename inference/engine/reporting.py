"""What a job tells while it works: progress, loss, time left; and its checks between two steps."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from tilth.contract.messages import EventKind

from inference.engine.errors import Stopped
from inference.engine.span import Span
from inference.engine.spool import Spool

EVERY_S = 0.5
"""Seconds between two metrics events."""
FEWEST, SHARE = 1000, 0.05
"""Row passes, and the share of those of finishing, from which on the time of finishing is foretold."""

Stop = Callable[[], Literal["pause", "cancel"] | None]


@dataclass
class Reporter:
    """Counts work in row passes: a forward is one, a training step on a row three."""

    spool: Spool
    span: Span
    stop: Stop
    total: float = 1.0
    done: float = 0.0
    final: float = 0.0
    """Row passes that finishing takes (the test split): their time is kept in reserve of the budget."""
    _last: float = field(default=0.0, init=False)
    _begun: float | None = field(default=None, init=False)
    """At the first check: what came before, as reading rows, says nothing of how long a row pass takes."""

    def check(self, step: int) -> None:
        """Raises Stopped or BudgetReached, between two steps."""
        self._begun = self._begun or time.monotonic()
        if mode := self.stop():
            raise Stopped(mode, step)
        self.span.check_budget(self._reserve_ms())

    def work(self, passes: float) -> None:
        """Work done since the last call."""
        self.done = min(self.total, self.done + passes)

    def step(
        self, *, rung: str, step: int, total_steps: int, loss: float, rate: float | None = None, force: bool = False
    ) -> None:
        """A metrics event, unless the last is too fresh; ``rate`` is the learning rate, where there is one."""
        if not force and time.monotonic() - self._last < EVERY_S:
            return
        self._last = time.monotonic()
        facts = {"rung": rung, "step": step, "total_steps": total_steps, "train_loss": round(loss, 6)}
        facts |= {} if rate is None else {"learning_rate": rate}
        told = f"Step {step}/{total_steps}: training loss={loss:.4f}"
        self.spool.emit(EventKind.METRICS, told, data={**facts, **self._progress()})

    def scores(self, message: str, *, rung: str, step: int, **scores: float) -> None:
        """A metrics event with validation scores."""
        rounded = {name: round(value, 6) for name, value in scores.items()}
        self.spool.emit(EventKind.METRICS, message, data={"rung": rung, "step": step, **rounded, **self._progress()})

    def note(self, message: str) -> None:
        """A sentence for the job's log."""
        self.spool.emit(EventKind.MESSAGE, message)

    def _reserve_ms(self) -> int:
        if self.done < max(FEWEST, SHARE * self.final):
            return 0
        return int(1000 * (self._needed_s(self.final) or 0))

    def _progress(self) -> dict[str, float | None]:
        left = self._needed_s(self.total - self.done)
        return {"progress": round(self.done / self.total, 4), "eta_s": round(left, 1) if left is not None else None}

    def _needed_s(self, passes: float) -> float | None:
        """At the pace so far."""
        if self._begun is None or self.done == 0:
            return None
        return (time.monotonic() - self._begun) / self.done * passes
