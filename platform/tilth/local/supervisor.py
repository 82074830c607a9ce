"""Starts the parts, each as soon as it can; restarts what dies; stops all in reverse; leaves nothing behind."""

import threading
import time
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Literal

from tilth.local.children import NotReady, Part
from tilth.local.orphans import adopt_orphans, bury, end_adopted
from tilth.local.postgres import PostgresFailed

ROUND_S = {True: 0.3, False: 0.05}
"""Between two looks, by whether all is up."""
BURY_S = 5.0
WAITS_S = (0.2, 10.0)
"""Before a restart: after the first death, and at most."""
CALM_S = 60.0
"""A part that has run this long has no bad record any more."""

What = Literal["launched", "ready", "died", "stopped"]
Told = Callable[[str, What, str], object]


class State(Enum):
    """Of a part."""

    DOWN = "down"
    STARTING = "starting"
    UP = "up"


class Supervisor:
    """Keeps parts running until it is told to stop; all its work is done by the thread that calls it."""

    def __init__(self, parts: Sequence[Part], told: Told, changed: Callable[[], object] = lambda: None) -> None:
        self._parts = {part.name: part for part in parts}
        self._states = dict.fromkeys(self._parts, State.DOWN)
        self._due = dict.fromkeys(self._parts, 0.0)
        self._waits: dict[str, float] = {}
        self._launched: dict[str, float] = {}
        self._told = told
        self._changed = changed
        self._stopping = threading.Event()
        self._buried = 0.0

    def start(self) -> bool:
        """Brings all parts up; raises NotReady or PostgresFailed at the first that fails; False if told to stop."""
        adopt_orphans()
        while not self._all_up():
            for name in self._parts:
                self._advance(name)
            if self._stopping.wait(ROUND_S[False]):
                return False
        self._changed()
        return True

    def watch(self, until: Callable[[], bool] = lambda: False) -> None:
        """Restarts what has died, and what stands on it, until ``ask_to_stop`` or the condition holds."""
        while not until() and not self._stopping.wait(ROUND_S[self._all_up()]):
            self._bury_now_and_then()
            for name in self._parts:
                try:
                    self._advance(name)
                except (NotReady, PostgresFailed, OSError) as fault:
                    self._fell(name, str(fault))

    def ask_to_stop(self) -> None:
        """Ends ``start`` and ``watch``; safe in a signal handler."""
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        """Whether it has been told to stop."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Stops all parts, the last first, then whatever else descends from us."""
        self._stopping.set()
        for part in reversed(self._parts.values()):
            if part.pid() is not None:
                begun = time.monotonic()
                part.stop()
                self._told(part.name, "stopped", f"{time.monotonic() - begun:.1f} s")
        end_adopted([])

    def _advance(self, name: str) -> None:
        """One step of a part's life: launched when what it needs is up, up when it answers, down when it dies."""
        part = self._parts[name]
        match self._states[name]:
            case State.DOWN if time.monotonic() >= self._due[name] and self._are_up(part.needs):
                self._launched[name] = time.monotonic()
                self._states[name] = State.STARTING
                self._told(name, "launched", "")
                part.launch()
            case State.STARTING if part.ready():
                self._states[name] = State.UP
                self._told(name, "ready", f"{time.monotonic() - self._launched[name]:.1f} s")
                self._changed()
            case State.UP if not part.alive():
                self._fell(name, "")

    def _fell(self, name: str, why: str) -> None:
        """Takes down the part, all that cannot outlive it, and what they have left behind."""
        self._told(name, "died", why)
        fallen = [part for part in self._parts.values() if part.name == name or name in part.falls_with]
        for part in reversed(fallen):
            part.stop()
            self._states[part.name] = State.DOWN
        self._due[name] = time.monotonic() + self._wait_for(name)
        end_adopted(self._pids())

    def _wait_for(self, name: str) -> float:
        """Seconds; longer after each death in a row."""
        least, most = WAITS_S
        calm = time.monotonic() - self._launched.get(name, 0.0) > CALM_S
        self._waits[name] = least if calm else min(most, self._waits.get(name, least / 2) * 2)
        return self._waits[name]

    def _are_up(self, names: Sequence[str]) -> bool:
        return all(self._states.get(name, State.UP) is State.UP for name in names)

    def _all_up(self) -> bool:
        return self._are_up(list(self._parts))

    def _pids(self) -> list[int]:
        return [pid for part in self._parts.values() if (pid := part.pid()) is not None]

    def _bury_now_and_then(self) -> None:
        if time.monotonic() > self._buried + BURY_S:
            bury(self._pids())
            self._buried = time.monotonic()
