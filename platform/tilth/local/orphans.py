"""Leaves no process behind: orphans of our children become ours, and whatever descends from us is ended."""

import ctypes
import os
import signal
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LIBC = ctypes.CDLL(None)


def adopt_orphans() -> None:
    """From now on a grandchild whose parent dies becomes our child instead of init's."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """In a child, before exec: SIGTERM when the supervisor dies, however it dies."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def fast_shutdown_with_parent() -> None:
    """In PostgreSQL, before exec: SIGINT rolls open transactions back and ends it."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGINT)


def _prctl(option: int, value: int) -> None:
    """Linux alone has it; elsewhere a killed supervisor's children are found at the next start."""
    if prctl := getattr(LIBC, "prctl", None):
        prctl(option, value, 0, 0, 0)


def descendants(root: int | None = None) -> list[int]:
    """Every living process below ``root`` (ourselves), from /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found: list[int] = []
    waiting = [root or os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def end_descendants(grace_s: float = 5.0) -> list[int]:
    """SIGTERM to all that descends from us, SIGKILL to what does not listen; returns those that had to be killed."""
    _signal(descendants(), signal.SIGTERM)
    end = time.monotonic() + grace_s
    while time.monotonic() < end and descendants():
        reap()
        time.sleep(0.05)
    stubborn = descendants()
    while left := descendants():
        _signal(left, signal.SIGKILL)
        reap()
        time.sleep(0.02)
    return stubborn


def reap() -> None:
    """Buries adopted children that have ended; the supervisor's own are waited for by their Popen."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
