"""How much memory a trainer may have, and the limit under which its job runs: a job that runs out fails alone."""

import contextlib
import ctypes
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from inference.engine import gpu

MIB = 1 << 20
SHARE = 0.8
"""Of the machine's memory that all trainers together may have; hosts, Ray and the control plane have the rest."""
OOM_SCORE = 1000
"""The kernel takes a trainer first: it serves one job, a host serves all customers."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""
LARGEST_KEPT = 32 * MIB
"""One allocation; glibc takes no more."""
MOST_KEPT = 256 * MIB
"""At the end of the heap; beyond, all of it goes back."""

REFUSALS = ("allocate memory", "out of memory", "bad_alloc", "could not create a ", "could not execute a primitive",
            "cannot map zero-fill pages", "failed to map segment")  # fmt: skip
"""Words of torch on the CPU, on a GPU, of C++, of oneDNN, which says no more when its scratch is refused, and of the
loader of a library that is imported late.
"""


def trainer_memory(trainers: int, asked_mb: int = 0) -> int:
    """Bytes that one of so many trainers may hold: what the operator says (TILTH_TRAINER_MEMORY_MB), or its share.

    Of a GPU's memory it may hold as much again.
    """
    return asked_mb * MIB if asked_mb else int(SHARE * min(machine_memory(), gpu.memory()) / max(1, trainers))


def machine_memory() -> int:
    """The machine's memory, or the control group's limit if that is less; bytes."""
    return min(_meminfo("MemTotal"), *(limit for limit, _ in _groups()), gpu.UNLIMITED)


def growth(limit: int) -> int:
    """Bytes by which this process may grow: up to its limit, and no further than machine and GPU have free now."""
    free = [limit - used for limit, used in _groups() if limit < gpu.UNLIMITED]
    return max(0, min(limit - resident(), _meminfo("MemAvailable"), *free, gpu.growth(limit)))


def resident() -> int:
    """Bytes of this process in memory."""
    return _status("VmRSS")


def peak() -> int:
    """The most that ever was resident; bytes."""
    return _status("VmHWM")


@contextlib.contextmanager
def capped(by: int) -> Iterator[None]:
    """This process may allocate so many bytes more; beyond, an allocation fails (RLIMIT_DATA) and only the job does.

    Of a GPU's memory as many more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _status("VmData") + by
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    try:
        with gpu.capped(by):
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory was refused: Python's, torch's on CPU or GPU, oneDNN's, the loader's."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, (RuntimeError, ImportError)) and any(words in str(error) for words in REFUSALS)


def keep_freed() -> None:
    """Freed memory stays with this process instead of going back to the kernel and coming anew, page by page.

    Every forward allocates and frees the same tensors; with glibc's own thresholds that took a third of a forward's
    time (``make bench NAME=adapters``). Elsewhere than on glibc nothing changes.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(M_TRIM_THRESHOLD, MOST_KEPT)


def die_first() -> None:
    """Of all processes, should the kernel run out of memory."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


def _groups() -> list[tuple[int, int]]:
    """(limit, used) of our control group under either version, where there is one; bytes."""
    found = []
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # absent, or "max"
            found.append((int(Path(limit).read_text()), int(Path(used).read_text())))
    return found


def _meminfo(name: str) -> int:
    return _kilobytes(Path("/proc/meminfo"), name) or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _status(name: str) -> int:
    return _kilobytes(Path("/proc/self/status"), name) or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _kilobytes(file: Path, name: str) -> int:
    """A line ``Name:  123 kB`` in bytes; 0 where there is none, as on other systems than Linux."""
    with contextlib.suppress(OSError):
        for line in file.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0
