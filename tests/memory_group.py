"""A control group whose processes may take little more memory: beyond, the kernel takes one of them."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
NAMES = (
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control"),
    ("memory.max", "memory.current", "memory.events"),
)
"""Limit, usage and kills under version 1 and 2."""


class MemoryGroup:
    """What its processes take from now on is counted; ``limit`` says how much more that may be."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        first = (folder / NAMES[0][0]).exists()
        self._limit, self._usage, self._events = (folder / name for name in NAMES[0 if first else 1])
        self.limit(1 << 40)  # raises OSError where nobody may

    def take(self, pids: Sequence[int]) -> None:
        """A process that has just ended is left out."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                (self._folder / "cgroup.procs").write_text(str(pid))

    def limit(self, more: int) -> None:
        """Bytes above what they have taken until now."""
        self._limit.write_text(str(int(self._usage.read_text()) + more))

    def kills(self) -> int:
        """How many of them the kernel has taken."""
        return int(dict(line.split() for line in self._events.read_text().splitlines())["oom_kill"])


@contextmanager
def memory_group() -> Iterator[MemoryGroup | None]:
    """A group of its own for a while; None where we may not make one."""
    parent = GROUPS / "memory" if (GROUPS / "memory").is_dir() else GROUPS
    folder = parent / f"tilth-{os.getpid()}-{time.monotonic_ns()}"
    try:
        folder.mkdir()
        made = MemoryGroup(folder)
    except OSError:
        with contextlib.suppress(OSError):
            folder.rmdir()
        yield None
        return
    try:
        yield made
    finally:
        for pid in (folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (parent / "cgroup.procs").write_text(pid)
        _patiently(folder.rmdir)


def _patiently(act: Callable[[], object]) -> None:
    """A process that has just been killed holds its group for a moment."""
    for _ in range(50):
        with contextlib.suppress(OSError):
            act()
            return
        time.sleep(0.1)
    act()
