"""Leaves no process behind: orphans of our children become ours, and whatever descends from us is ended."""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LIBC = ctypes.CDLL(None)
GRACE_S = 5.0


@dataclass(frozen=True)
class Process:
    """One line of the process table."""

    pid: int
    parent: int
    session: int
    zombie: bool


def adopt_orphans() -> None:
    """From now on a grandchild whose parent dies becomes our child instead of init's."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """In a child, before exec: SIGTERM when the supervisor dies, however it dies."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def fast_shutdown_with_parent() -> None:
    """In PostgreSQL, before exec: SIGINT rolls open transactions back and ends it."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGINT)


def processes() -> Iterator[Process]:
    """The process table, from /proc."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, _, session, *_ = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        yield Process(int(stat.parent.name), int(parent), int(session), state == "Z")


def descendants(roots: Iterable[int]) -> list[int]:
    """Every living process below the roots."""
    children: dict[int, list[int]] = {}
    for process in processes():
        if not process.zombie:
            children.setdefault(process.parent, []).append(process.pid)
    found: list[int] = []
    waiting = list(roots)
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def adopted(own: Iterable[int]) -> list[Process]:
    """Children that we did not start: each of ours leads a session, so theirs are in another one than we."""
    mine, session, known = os.getpid(), os.getsid(0), set(own)
    return [p for p in processes() if p.parent == mine and p.session != session and p.pid not in known]


def end_adopted(own: Iterable[int]) -> None:
    """Ends what a dead child has left, with all below it."""
    known = list(own)

    def left() -> list[int]:
        roots = [process.pid for process in adopted(known) if not process.zombie]
        return roots + descendants(roots)

    end_all(left)
    bury(known)


def end_marked(mark: str) -> None:
    """Ends what a killed supervisor of the same folder has left: its environment holds the mark."""
    sought = f"{mark}\0".encode()
    end_all(lambda: [pid for pid in _others() if sought in _environment(pid)])


def end_all(living: Callable[[], list[int]], grace_s: float = GRACE_S) -> None:
    """SIGTERM to all, SIGKILL to what does not listen; returns when none is left."""
    _signal(living(), signal.SIGTERM)
    end = time.monotonic() + grace_s
    while left := living():
        if time.monotonic() > end:
            _signal(left, signal.SIGKILL)
        time.sleep(0.05)


def working_in(folder: Path) -> list[int]:
    """Processes whose working directory it is."""
    return [pid for pid in _others() if _working_directory(pid) == str(folder.resolve())]


def bury(own: Iterable[int]) -> None:
    """Takes adopted zombies off the process table; our own children are waited for where they were started."""
    for process in adopted(own):
        if process.zombie:
            os.waitpid(process.pid, os.WNOHANG)


def _others() -> list[int]:
    return [process.pid for process in processes() if not process.zombie and process.pid != os.getpid()]


def _working_directory(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""  # it ended meanwhile, or is another user's


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _prctl(option: int, value: int) -> None:
    """Linux alone has it; elsewhere a killed supervisor's children are found at the next start."""
    if prctl := getattr(LIBC, "prctl", None):
        prctl(option, value, 0, 0, 0)
