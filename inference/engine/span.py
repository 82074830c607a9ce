"""A device span: opened when the runner holds the device, extended by heartbeats, closed on exit."""

import contextlib
import threading
import time
from types import TracebackType

from tilth.contract.messages import EventKind

from inference.engine.errors import BudgetReached
from inference.engine.spool import Spool


class Span:
    """Counts held device time in ms on the monotonic clock, so that it never exceeds real time."""

    def __init__(self, spool: Spool, *, device: str, share_millis: int, heartbeat_s: float, max_ms: int) -> None:
        self._spool = spool
        self._device = device
        self._share_millis = share_millis
        self._heartbeat_s = heartbeat_s
        self._max_ms = max_ms
        self._opened = 0.0
        self._ended = threading.Event()
        self._pulse = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> "Span":
        self._opened = time.monotonic()
        opened = {"device": self._device, "share_millis": self._share_millis}
        self._spool.emit(EventKind.SPAN_OPENED, data=opened)
        self._pulse.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()
        self._pulse.join()
        reason = "exit" if kind is None else kind.__name__
        self._spool.emit(EventKind.SPAN_CLOSED, data={"device_ms": self.device_ms(), "reason": reason})

    def device_ms(self) -> int:
        """Billable milliseconds since the span was opened: what finishing takes beyond the budget is not billed."""
        return min(self._held_ms(), self._max_ms)

    def check_budget(self, reserve_ms: int = 0) -> None:
        """Raises BudgetReached when the budget's device time, less a reserve for finishing, is used up."""
        if self._held_ms() + reserve_ms >= self._max_ms:
            raise BudgetReached(f"{self._max_ms} ms of device time are used up")

    def _held_ms(self) -> int:
        return int((time.monotonic() - self._opened) * 1000)

    def _beat(self) -> None:
        while not self._ended.wait(self._heartbeat_s):
            with contextlib.suppress(MemoryError, OSError):  # the job tells of it; a beat is missed, no more
                self._spool.emit(EventKind.HEARTBEAT, data={"device_ms": self.device_ms()})
