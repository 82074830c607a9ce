"""The supervisor's children: how one starts, when it is ready, how it ends."""

import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tilth.local.orphans import die_with_parent
from tilth.local.postgres import Postgres

READY_S = 120.0


class NotReady(RuntimeError):
    """A child ended, or did not get ready in time; the message holds the end of its log."""


class Part(Protocol):
    """What the supervisor keeps running."""

    name: str
    needs: tuple[str, ...]
    """Names of the parts that must be ready before it is launched."""
    falls_with: tuple[str, ...]
    """Names of the parts it cannot outlive: when one restarts, so does this."""

    def launch(self) -> None:
        """Starts it; called by the thread that goes on living, since it dies with it."""

    def ready(self) -> bool:
        """Whether it is of use by now; raises NotReady when it never will be."""

    def stop(self) -> None:
        """Ends it and waits for its end."""

    def alive(self) -> bool:
        """Whether it is as it was launched."""

    def pid(self) -> int | None:
        """Of its process."""


@dataclass
class Child:
    """A command that leads a session of its own, its output in a log."""

    name: str
    command: list[str]
    env: dict[str, str]
    log: Path
    folder: Path
    """Where it works."""
    answers: Callable[["Child"], bool]
    """Whether it does its work."""
    needs: tuple[str, ...] = ()
    falls_with: tuple[str, ...] = ()
    grace_s: float = 15.0
    """Between SIGTERM and SIGKILL."""
    inherits: tuple[int, ...] = ()
    """File descriptors, under the same numbers."""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _since: float = field(default=0.0, repr=False)
    _log_start: int = field(default=0, repr=False)

    def launch(self) -> None:
        """Starts the command."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._since = time.monotonic()
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self.process = subprocess.Popen(
                self.command, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                start_new_session=True, preexec_fn=die_with_parent, pass_fds=self.inherits,
            )  # fmt: skip

    def ready(self) -> bool:
        """Asks it; raises NotReady if it ended or took too long."""
        if not self.alive():
            raise NotReady(f"{self.name} ended; {self.tail()}")
        if time.monotonic() > self._since + READY_S:
            raise NotReady(f"{self.name} was not ready after {READY_S:.0f} s; {self.tail()}")
        return self.answers(self)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(self.grace_s)
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

    def said(self, words: str) -> bool:
        """Whether the words stand in its log since it was launched."""
        return words in self._words()

    def tail(self, size: int = 2000) -> str:
        """The end of its log."""
        return f"the end of {self.log}:\n{self._words()[-size:]}"

    def _words(self) -> str:
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")


@dataclass
class Errand(Child):
    """A command that is ready when it has ended well, e.g. migrations; nothing that could die later."""

    def ready(self) -> bool:
        """Raises NotReady if it failed."""
        status = self.process.poll() if self.process else None
        if status:
            raise NotReady(f"{self.name} failed with status {status}; {self.tail()}")
        return status == 0

    def alive(self) -> bool:
        """What is done does not die."""
        return True

    def pid(self) -> int | None:
        """Of its process, while there is one."""
        return super().pid() if super().alive() else None


@dataclass
class Database:
    """The embedded PostgreSQL as a part."""

    server: Postgres
    name: str = "postgres"
    needs: tuple[str, ...] = ()
    falls_with: tuple[str, ...] = ()

    def launch(self) -> None:
        """Makes the cluster if need be, and starts the server."""
        self.server.launch()

    def ready(self) -> bool:
        """Whether the server answers, with roles and database made; raises PostgresFailed when it never will."""
        return self.server.ready()

    def stop(self) -> None:
        """Stops the server."""
        self.server.stop()

    def alive(self) -> bool:
        """Whether the server runs."""
        return self.server.process is not None and self.server.process.poll() is None

    def pid(self) -> int | None:
        """Of the server."""
        return self.server.process.pid if self.server.process else None
