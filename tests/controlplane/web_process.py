"""A real web process for the SDK to talk to, and what it leaves in storage."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Web:
    """A running web process."""

    process: subprocess.Popen[bytes]
    port: int

    def sdk(self, tenant: Any) -> openai.OpenAI:
        return openai.OpenAI(api_key=tenant.key, base_url=f"http://127.0.0.1:{self.port}/v1", max_retries=0)

    def memory(self, field: str = "VmRSS") -> int:
        """Bytes resident now, or the most there ever were (VmHWM)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024


def start(**env: str) -> Web:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "uvicorn", "tilth.asgi:application", "--port", str(port)]
    process = subprocess.Popen([*command, "--log-level", "warning"], cwd=ROOT, env=os.environ | env)
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return Web(process, port)
        time.sleep(0.1)
    process.kill()
    raise AssertionError("uvicorn did not start")


def left_behind(artifacts: Path, tenant: Any) -> list[Path]:
    return [path for path in (artifacts / "tenants" / tenant.id.hex).rglob("*") if path.is_file()]


def eventually(true: Callable[[], bool]) -> None:
    for _ in range(100):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come true")
