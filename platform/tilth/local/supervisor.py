"""Starts the parts in order, restarts what dies, stops all in reverse; leaves nothing behind."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from tilth.local.children import NotReady, Part
from tilth.local.orphans import adopt_orphans, end_descendants
from tilth.local.postgres import PostgresFailed

log = logging.getLogger(__name__)

WATCH_S = 0.3
FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 10.0
CALM_S = 60.0
"""A part that has run this long has no bad record any more."""

Told = Callable[[str], object]


class Supervisor:
    """Keeps parts running until it is told to stop."""

    def __init__(self, parts: Sequence[Part], told: Told) -> None:
        self._parts = list(parts)
        self._told = told
        self._stopping = threading.Event()
        self._waits: dict[str, float] = {}
        self._started: dict[str, float] = {}
        self.restarts: dict[str, int] = {part.name: 0 for part in parts}

    def start(self) -> None:
        """Starts every part; if one does not get ready all are stopped and its error goes on."""
        adopt_orphans()
        try:
            for part in self._parts:
                self._told(f"starting {part.name}")
                part.start()
                self._started[part.name] = time.monotonic()
        except BaseException:
            self.stop()
            raise

    def watch(self, once_a_round: Callable[[], object] = lambda: None) -> None:
        """Until ``ask_to_stop``: restarts what has died, and what stands on it."""
        while not self._stopping.wait(WATCH_S):
            once_a_round()
            for part in self._parts:
                if not part.alive() and not self._stopping.is_set():
                    self._restart(part)

    def ask_to_stop(self) -> None:
        """Ends ``watch``; safe in a signal handler."""
        self._stopping.set()

    def stop(self) -> None:
        """Stops all parts, the last started first, then whatever else descends from us."""
        self._stopping.set()
        for part in reversed(self._parts):
            part.stop()
        end_descendants()

    def _restart(self, part: Part) -> None:
        self._told(f"{part.name} has died; starting it again")
        for dependent in reversed(self._parts):
            if part.name in dependent.after:
                dependent.stop()
        part.stop()
        if self._stopping.wait(self._wait_for(part)):
            return
        try:
            part.start()
        except (NotReady, PostgresFailed, OSError) as fault:
            log.error("%s: %s", part.name, fault)
            part.stop()
            return
        self._started[part.name] = time.monotonic()
        self.restarts[part.name] += 1

    def _wait_for(self, part: Part) -> float:
        """Longer after each death in a row."""
        calm = time.monotonic() - self._started.get(part.name, 0.0) > CALM_S
        wait = FIRST_WAIT_S if calm else self._waits.get(part.name, FIRST_WAIT_S / 2) * 2
        self._waits[part.name] = min(wait, LONGEST_WAIT_S)
        return self._waits[part.name]
