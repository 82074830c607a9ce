"""What can be killed, and how it is found."""

import os
import signal
import time
from collections.abc import Callable

from tests.product import Product

FIND_S = 180.0
Find = Callable[[Product], list[int]]


def part(name: str) -> Find:
    """A child of the supervisor."""

    def find(product: Product) -> list[int]:
        pid = product.state["pids"][name]
        return [pid] if pid else []

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
    "ray head": part("ray"),
    "all at once": lambda product: list(product.processes()),
    "supervisor": lambda product: [product.process.pid],
}
"""The trainer is found only while it runs a job; web and gateway are one process."""
HUNG = ("hung trainer",)
"""Stopped by SIGSTOP instead, as what hangs and does not die."""


def kill(product: Product, kind: str) -> int:
    """SIGKILL (or SIGSTOP), as soon as there is such a process; how many were hit."""
    number = signal.SIGSTOP if kind in HUNG else signal.SIGKILL
    end = time.monotonic() + FIND_S
    while not (hit := sum(_hit(pid, number) for pid in KINDS[kind](product))):
        assert time.monotonic() < end, f"there is no {kind}"
        time.sleep(0.05)
    if kind == "supervisor":
        product.process.wait()
        product.restart()
    return hit


def _hit(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
