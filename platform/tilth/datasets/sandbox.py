"""Runs the child that reads a customer's file, under limits of memory, time and disk; its death is told, not shared."""

import json
import logging
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tilth
from tilth.core.errors import Invalid, Unavailable
from tilth.datasets.orders import ANSWER, ORDER

log = logging.getLogger(__name__)

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What the child may use."""

    memory_bytes: int = 3072 * MIB
    """Address space, of which DuckDB takes a part."""
    cpu_s: int = 2400
    file_bytes: int = 16384 * MIB
    """Largest file it may write, the spill included."""
    wall_s: int = 3600

    def as_json(self) -> dict[str, int]:
        """By the names of setrlimit."""
        return {"RLIMIT_AS": self.memory_bytes, "RLIMIT_CPU": self.cpu_s, "RLIMIT_FSIZE": self.file_bytes}


def run_child(
    order: dict[str, Any], at: Path, limits: Limits | None = None, *, module: str = "tilth.datasets.child"
) -> dict[str, Any]:
    """The report that the child ``module`` makes; raises Invalid with what it found wrong, or the limit it died of."""
    limits = limits or Limits()
    (at / ORDER).write_text(json.dumps({**order, "limits": limits.as_json()}))
    ended = _run(at, limits, module)
    answer = _answer(at)
    if "report" in answer:
        return dict(answer["report"])
    if "invalid" in answer:
        raise Invalid(**answer["invalid"])
    raise _death(ended, answer, limits)


def _run(at: Path, limits: Limits, module: str) -> subprocess.CompletedProcess[bytes] | None:
    """None if it took too long."""
    command = [sys.executable, "-X", "faulthandler", "-m", module, str(at)]
    # Nothing of our environment goes along: no address of a database, no secret.
    clean = {"PYTHONPATH": str(Path(tilth.__file__).parents[1]), "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"}
    with subprocess.Popen(command, env=clean, cwd=at, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            process.wait(limits.wall_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            process.kill()
        stderr = process.stderr.read() if process.stderr else b""
    return subprocess.CompletedProcess(command, process.returncode, stderr=stderr)


def _answer(at: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((at / ANSWER).read_bytes()))
    except (FileNotFoundError, ValueError):
        return {}


def _death(ended: subprocess.CompletedProcess[bytes] | None, answer: dict[str, Any], limits: Limits) -> Exception:
    """Which limit it was; what is none of them is our bug and worth another try."""
    stderr = ended.stderr.decode(errors="replace") if ended else ""
    if ended is None or ended.returncode in (-24, -9):  # SIGXCPU, and SIGKILL beyond it
        return _too_much(f"takes more than {limits.cpu_s} s of computing to check")
    if answer.get("died") == "memory" or "MemoryError" in stderr or "Out of Memory" in stderr or "bad_alloc" in stderr:
        return _too_much(f"takes more than {limits.memory_bytes // MIB} MiB of memory to check")
    if ended.returncode == -25 or "File too large" in stderr:  # SIGXFSZ
        return _too_much(f"takes more than {limits.file_bytes // MIB} MiB of disk to check")
    log.error("the child that checks files ended with %s: %s", ended.returncode, stderr[-2000:])
    return Unavailable("The check of the file broke off; it will be tried again.")


def _too_much(what: str) -> Invalid:
    return Invalid(f"The file {what}; split it, or shorten its longest cells.", code="file_too_large")
