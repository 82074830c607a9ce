"""What can be killed, stopped, cut off or filled up, and how it is found; each says how often it hit."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable

import psutil

from tests.memory_group import MemoryGroup, memory_group
from tests.network import Fault
from tests.product import Product

FIND_S = 180.0
DIES_S = 10.0
HANG_S = 8.0
"""For which what ends by itself lasts."""
AMPLE, GROWN, SCARCE = 1 << 40, 64 << 20, 2 << 20
"""Bytes: enough for all; what a trainer takes before memory runs out; what it and the host may still take then."""
Find = Callable[[Product], list[int]]
Harm = Callable[[Product], int]


def part(name: str) -> Find:
    """A child of the supervisor."""

    def find(product: Product) -> list[int]:
        pid = product.state["pids"][name]
        return [pid] if pid else []

    return find


def family(name: str) -> Find:
    """A child of the supervisor with all its own."""

    def find(product: Product) -> list[int]:
        return [each for pid in part(name)(product) for each in (pid, *_below(pid))]

    return find


def named(words: str) -> Find:
    """Ray's processes bear their actor's name."""
    return lambda product: [pid for pid, line in product.processes().items() if line.startswith(f"ray::{words}")]


def killed(find: Find) -> Harm:
    """By SIGKILL."""
    return lambda product: len(_hit(product, find, signal.SIGKILL))


def stopped(find: Find, seconds: float | None = None) -> Harm:
    """By SIGSTOP, as what hangs and does not die: for ever, or for so long, while other harm may be done."""

    def stop(product: Product) -> int:
        hit = _hit(product, find, signal.SIGSTOP)
        if seconds is not None:
            threading.Timer(seconds, lambda: [_signal(pid, signal.SIGCONT) for pid in hit]).start()
        return len(hit)

    return stop


def broken(fault: Fault) -> Harm:
    """The network between the planes, for a while."""

    def cut(product: Product) -> int:
        before, product.cable.fault = product.cable.hurt, fault
        time.sleep(HANG_S)
        product.cable.fault = Fault.NONE
        return int(product.cable.hurt > before)

    return cut


def full(name: str) -> Harm:
    """A disk of the product, for a while."""

    def fill(product: Product) -> int:
        disk = product.disks[name]
        if disk is None:  # nothing can be mounted here; the campaign's table says how often it was
            return 0
        disk.fill()
        time.sleep(HANG_S)
        disk.free()
        return 1

    return fill


def out_of_memory(product: Product) -> int:
    """Where a trainer and the host that serves everybody live, memory is out: the kernel takes a trainer.

    How many it took; a host that asks for more in the very moments in which the trainer's memory comes back may follow.
    """
    trainers, hosts = named("Trainer.run"), named("ServeReplica:tilth-host-")
    end = time.monotonic() + FIND_S
    while time.monotonic() < end:
        with memory_group() as group:
            if group is None:  # nothing can be limited here; the campaign's table says how often it was
                return 0
            if learning := trainers(product):
                group.take([*learning, *hosts(product)])
                _starve(group, learning[0])
            if group.kills():
                assert _gone(learning[0]), "the kernel took a host that serves all customers first"
                return group.kills()
        time.sleep(0.05)
    raise AssertionError("memory did not run out")


def _gone(process: int) -> bool:
    """Whether it ends: on a busy machine a while passes between the kernel's kill and the end."""
    try:
        psutil.Process(process).wait(DIES_S)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


def _starve(group: MemoryGroup, trainer: int) -> None:
    """Until the kernel has taken something, or the trainer has ended; the limit falls once its death will free much.

    It frees it in the course of some 50 ms: who asks meanwhile would be taken next, so the limit is lifted at once.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        before, starved = _private(trainer), False
        while not group.kills():
            if not starved and _private(trainer) > before + GROWN:
                group.limit(SCARCE)
                starved = True
            elif starved and not psutil.pid_exists(trainer):
                break
            time.sleep(0.001)
    group.limit(AMPLE)


def _private(pid: int) -> int:
    """Bytes of a process that nobody shares and that come back when it dies."""
    memory = psutil.Process(pid).memory_info()
    return int(memory.rss - memory.shared)


def supervisor(product: Product) -> int:
    """Killed, and started again as an operator's init system would."""
    product.process.kill()
    product.process.wait()
    product.restart()
    return 1


KINDS: dict[str, Harm] = {
    "trainer": killed(named("Trainer.run")),
    "out of memory": out_of_memory,
    "hung trainer": stopped(named("Trainer.run")),
    "trainer pool": killed(named("TrainerPool")),
    "host": killed(named("ServeReplica:tilth-host-")),
    "ingress": killed(part("ingress")),
    "worker": killed(part("worker")),
    "web and gateway": killed(part("web")),
    "postgres": killed(part("postgres")),
    "hung postgres": stopped(family("postgres"), HANG_S),
    "ray head": killed(part("ray")),
    "all at once": killed(lambda product: list(product.processes())),
    "supervisor": supervisor,
    "network cut": broken(Fault.CUT),
    "network reset": broken(Fault.RESET),
    "network half open": broken(Fault.HALF_OPEN),
    "replies lost": broken(Fault.REPLY_DROPPED),
    "network slow": broken(Fault.DELAY),
    "artifacts full": full("artifacts"),
    "database full": full("postgres"),
}
"""The trainer is found only while it runs a job; web and gateway are one process."""


def _hit(product: Product, find: Find, number: signal.Signals) -> list[int]:
    """Sends the signal as soon as there is such a process; who got it."""
    end = time.monotonic() + FIND_S
    while not (hit := [pid for pid in find(product) if _signal(pid, number)]):
        assert time.monotonic() < end, "there is no such process"
        time.sleep(0.05)
    return hit


def _signal(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _below(pid: int) -> list[int]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return []
