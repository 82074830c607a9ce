"""The worker's machinery: a leader by advisory lock, loops that it wakes, crews that do several things at once."""

import logging
import threading
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import psycopg
from django.conf import settings
from django.db import InterfaceError, OperationalError, connections
from psycopg_pool import PoolTimeout

from tilth.core.errors import Unavailable
from tilth.core.wake import CHANNEL

log = logging.getLogger(__name__)

LEADER = 7_115_100_104
"""Key of the advisory lock that makes one worker the leader."""
LISTEN_S = 0.5
"""Between two looks at the connection that holds the lock."""
BACK_OFF_S = (0.1, 5.0)
AWAY = (Unavailable, OperationalError, InterfaceError, psycopg.OperationalError, PoolTimeout, OSError)
"""Infrastructure that is away: tried again, says nothing of any job."""


@dataclass
class Loop:
    """Something done again and again, at the latest every so many seconds, at once when woken."""

    name: str
    step: Callable[[], object]
    every_s: float
    wake: threading.Event = field(default_factory=threading.Event)

    def run(self, leader: "Leader") -> None:
        """Until the leader is told to stop; nothing that a step raises ends it."""
        pause = 0.0
        while not leader.stopping.is_set():
            self.wake.clear()
            pause = self._once(pause) if leader.leading else 0.0
            self.wake.wait(pause or self.every_s)
        connections.close_all()

    def _once(self, pause: float) -> float:
        """Seconds to wait before the next try; 0 when all went well."""
        try:
            self.step()
        except AWAY as error:
            log.warning("%s: %s; trying again", self.name, error)
        except Exception:
            log.exception("%s: a bug; the loop goes on", self.name)
        else:
            if pause:
                log.info("%s: goes on", self.name)
            return 0.0
        connections.close_all()
        least, most = BACK_OFF_S
        return min(most, max(least, pause * 2))


class Leader:
    """Holds the lock on a connection of its own and listens there; without it the loops rest.

    Two leaders for a moment (a connection lost unnoticed) do no harm: each write locks its row and names its attempt.
    """

    def __init__(self, loops: list[Loop]) -> None:
        self.loops = loops
        self.leading = False
        self.stopping = threading.Event()

    def run(self) -> None:
        """Until stopped; a lost connection is made anew."""
        threads = [threading.Thread(target=loop.run, args=[self], name=loop.name) for loop in self.loops]
        for thread in threads:
            thread.start()
        while not self.stopping.is_set():
            try:
                self._hold()
            except psycopg.Error as error:
                log.warning("leader: %s; trying again", error)
            self.leading = False
            self.stopping.wait(LISTEN_S)
        self._wake()
        for thread in threads:
            thread.join()

    def stop(self) -> None:
        """Each loop ends after its present step."""
        self.stopping.set()
        self._wake()

    def _hold(self) -> None:
        url: str = settings.ENV.database_url
        quick: dict[str, Any] = {"keepalives_idle": 5, "tcp_user_timeout": 5000, "connect_timeout": 5}
        with psycopg.connect(url, autocommit=True, application_name="tilth worker", **quick) as connection:
            connection.execute(f"LISTEN {CHANNEL}")
            while not self.stopping.is_set():
                if not self.leading:
                    self.leading = self._locked(connection)
                for _ in connection.notifies(timeout=LISTEN_S, stop_after=1):
                    self._wake()
                connection.execute("SELECT 1")

    def _locked(self, connection: psycopg.Connection) -> bool:
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", [LEADER]).fetchone()
        if row and row[0]:
            log.info("leader: this worker leads")
            self._wake()
            return True
        return False

    def _wake(self) -> None:
        for loop in self.loops:
            loop.wake.set()


class Crew:
    """Threads that work on several keys at once, never on one key twice at a time."""

    def __init__(self, size: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(size, thread_name_prefix=name)
        self._busy: dict[Hashable, Future[None]] = {}

    def work(self, tasks: Mapping[Hashable, Callable[[], None]], patience_s: float) -> None:
        """Starts what is not under way, waits a while; raises an error met, bugs first."""
        for key, task in tasks.items():
            if key not in self._busy:
                self._busy[key] = self._pool.submit(_closing, task)
        done, _ = wait(self._busy.values(), timeout=patience_s)
        self._busy = {key: future for key, future in self._busy.items() if future not in done}
        errors = [error for future in done if (error := future.exception())]
        for error in sorted(errors, key=lambda error: isinstance(error, AWAY)):
            raise error


def _closing(task: Callable[[], None]) -> None:
    """Gives the thread's database connections back to the pool."""
    try:
        task()
    finally:
        connections.close_all()
