"""What can be killed or stopped, and how it is found."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable

import psutil

from tests.product import Product

FIND_S = 180.0
HANG_S = 8.0
"""For which what hangs only for a while does so."""
Find = Callable[[Product], list[int]]


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


KINDS: dict[str, Find] = {
    "trainer": named("Trainer.run"),
    "hung trainer": named("Trainer.run"),
    "trainer pool": named("TrainerPool"),
    "host": named("ServeReplica:tilth:host-"),
    "ingress": named("ServeReplica:tilth:Ingress"),
    "worker": part("worker"),
    "web and gateway": part("web"),
    "postgres": part("postgres"),
    "hung postgres": family("postgres"),
    "ray head": part("ray"),
    "all at once": lambda product: list(product.processes()),
    "supervisor": lambda product: [product.process.pid],
}
"""The trainer is found only while it runs a job; web and gateway are one process."""
HUNG = {"hung trainer": None, "hung postgres": HANG_S}
"""Stopped by SIGSTOP instead, as what hangs and does not die: for ever, or for so many seconds."""


def kill(product: Product, kind: str) -> int:
    """SIGKILL (or SIGSTOP), as soon as there is such a process; how many were hit."""
    number = signal.SIGSTOP if kind in HUNG else signal.SIGKILL
    end = time.monotonic() + FIND_S
    while not (hit := [pid for pid in KINDS[kind](product) if _hit(pid, number)]):
        assert time.monotonic() < end, f"there is no {kind}"
        time.sleep(0.05)
    if (seconds := HUNG.get(kind)) is not None:
        threading.Timer(seconds, lambda: [_hit(pid, signal.SIGCONT) for pid in hit]).start()
    if kind == "supervisor":
        product.process.wait()
        product.restart()
    return len(hit)


def _hit(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _below(pid: int) -> list[int]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return []
