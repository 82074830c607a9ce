"""One child of the supervisor: how it starts, when it is ready, how it ends."""

import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tilth.local.orphans import die_with_parent
from tilth.local.postgres import Postgres

STOP_S = 15.0


class NotReady(RuntimeError):
    """A child ended, or did not get ready in time; the message holds the end of its log."""


class Part(Protocol):
    """What the supervisor keeps running."""

    name: str
    after: tuple[str, ...]

    def start(self) -> None:
        """Starts it and waits until it is ready; raises NotReady."""

    def stop(self) -> None:
        """Ends it and waits for its end."""

    def alive(self) -> bool:
        """Whether its process runs."""

    def pid(self) -> int | None:
        """Of its process."""


@dataclass
class Child:
    """A command in a process group of its own, its output in a log."""

    name: str
    command: list[str]
    env: dict[str, str]
    log: Path
    ready: Callable[[], bool]
    after: tuple[str, ...] = ()
    """Names of the parts it cannot live without: when one restarts, so does this."""
    ready_s: float = 90.0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Starts the command and waits until it is ready."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=die_with_parent,
            )  # fmt: skip
        end = time.monotonic() + self.ready_s
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > end:
                how = "ended" if self.process.poll() is not None else f"was not ready after {self.ready_s:.0f} s"
                raise NotReady(f"{self.name} {how}; the end of {self.log}:\n{self.tail()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL to the whole group."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.poll() is None

    def pid(self) -> int | None:
        """Of its process."""
        return self.process.pid if self.process else None

    def tail(self, size: int = 2000) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-size:] if self.log.exists() else ""


@dataclass
class Database:
    """The embedded PostgreSQL as a part."""

    server: Postgres
    name: str = "postgres"
    after: tuple[str, ...] = ()

    def start(self) -> None:
        """Starts the server."""
        self.server.start()

    def stop(self) -> None:
        """Stops the server."""
        self.server.stop()

    def alive(self) -> bool:
        """Whether the server runs."""
        return self.server.process is not None and self.server.process.poll() is None

    def pid(self) -> int | None:
        """Of the server."""
        return self.server.process.pid if self.server.process else None


@dataclass
class Once:
    """Work done once at this place in the order, e.g. migrations; nothing that could die."""

    name: str
    work: Callable[[], object]
    after: tuple[str, ...] = ()

    def start(self) -> None:
        """Does the work."""
        self.work()

    def stop(self) -> None:
        """There is nothing to end."""

    def alive(self) -> bool:
        """Done work does not die."""
        return True

    def pid(self) -> int | None:
        """It has no process."""
        return None
