"""Real web processes on the tests' database: the product's own entry behind uvicorn, each on a port of its own."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
from tilth.local.ports import free_ports

ROOT = Path(__file__).resolve().parents[1]
READY_S = 60.0


@dataclass(frozen=True)
class Web:
    """A web process."""

    process: "subprocess.Popen[bytes]"
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def memory(self, field: str = "VmRSS") -> int:
        """Bytes resident now, or the most there ever were (VmHWM)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024

    def sdk(self, tenant: Any, max_retries: int = 0) -> openai.OpenAI:
        return openai.OpenAI(api_key=tenant.key, base_url=f"{self.url}/v1", max_retries=max_retries)


def free_port() -> int:
    return free_ports(1)[0]


@contextlib.contextmanager
def web(port: int | None = None, **env: str) -> Iterator[Web]:
    """A process that takes connections; killed in the end."""
    with webs(1, port, **env) as (only,):
        yield only


@contextlib.contextmanager
def webs(number: int, port: int | None = None, **env: str) -> Iterator[list[Web]]:
    """Several, started together."""
    begun = [_begun(port or free_port(), env) for _ in range(number)]
    try:
        for one in begun:
            _await_ready(one)
        yield begun
    finally:
        for one in begun:
            one.process.kill()
            one.process.wait()


def start(**env: str) -> Web:
    """A process that its caller ends."""
    begun = _begun(free_port(), env)
    _await_ready(begun)
    return begun


def _begun(port: int, env: dict[str, str]) -> Web:
    command = [sys.executable, "-W", "ignore", "-m", "uvicorn", "tilth.asgi:application", "--port", str(port)]
    return Web(subprocess.Popen([*command, "--log-level", "warning"], cwd=ROOT, env=os.environ | env), port)


def _await_ready(one: Web) -> None:
    end = time.monotonic() + READY_S
    while one.process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", one.port), 1):
            return
        time.sleep(0.05)
    raise AssertionError(f"the web process did not start: status {one.process.poll()}")
