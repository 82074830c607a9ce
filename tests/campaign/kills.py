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


def kill(product: Product, kind: str) -> int:
    """SIGKILL, as soon as there is such a process; how many were hit."""
    end = time.monotonic() + FIND_S
    while not (hit := sum(map(_killed, KINDS[kind](product)))):
        assert time.monotonic() < end, f"there is no {kind}"
        time.sleep(0.05)
    if kind == "supervisor":
        product.process.wait()
        product.restart()
    return hit


def _killed(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
