"""Procrastinate's worker inside ours, for the queue's tasks (file checks); it outlives a lost database."""

import asyncio
import logging
import threading

from procrastinate.contrib.django import app

log = logging.getLogger(__name__)

RETRY_S = 1.0


class TaskWorker(threading.Thread):
    """One thread with an event loop of its own."""

    def __init__(self) -> None:
        super().__init__(name="tasks")
        self._loop = asyncio.new_event_loop()
        self._main: asyncio.Task[None] | None = None
        self._stopping = threading.Event()

    def run(self) -> None:
        """Until stopped; a worker that lost its database is started anew."""
        while not self._stopping.is_set():
            try:
                self._main = self._loop.create_task(self._work())
                self._loop.run_until_complete(self._main)
            except asyncio.CancelledError:
                break
            except Exception as error:
                log.warning("tasks: %s; trying again", error)
            self._stopping.wait(RETRY_S)
        self._loop.close()

    def stop(self) -> None:
        """Lets the present task end."""
        self._stopping.set()
        if self._main is not None and self._loop.is_running():
            self._loop.call_soon_threadsafe(self._main.cancel)

    async def _work(self) -> None:
        connector = app.connector.get_worker_connector()  # type: ignore[attr-defined]
        async with app.with_connector(connector).open_async() as worker:
            await worker.run_worker_async(
                install_signal_handlers=False, listen_notify=True, delete_jobs="successful", shutdown_graceful_timeout=5
            )
