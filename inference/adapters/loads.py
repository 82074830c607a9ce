"""Adapters on their way into slots: one of each customer in turn, each read once however many ask for it."""

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from inference.adapters.flows import Overloaded, Turns
from inference.adapters.pool import Fetch, NoSlotFree, Pool, Slot

LOADERS = 4
"""Adapters that are read, or wait for a slot, at one time."""
MAX_LOADS = 1024
"""Adapters that may wait for a loader; more are refused."""
PREFETCH = "prefetch"
"""The flow of what is loaded before anybody asks: one turn among the customers'."""


@dataclass
class Arrival:
    """An adapter under way, and how many wait for it."""

    ready: "asyncio.Future[None]"
    """A loader is there."""
    flows: set[str] = field(default_factory=set)
    """In whose turns it waits for one."""
    waiting: int = 0
    slot: Slot | None = None
    task: "asyncio.Task[Slot]" = field(init=False)

    def refuse_abandoned(self) -> None:
        """Raises Overloaded, to nobody, once all who waited have gone."""
        if not self.waiting:
            raise Overloaded("whoever asked for the adapter has gone")


class Loads:
    """Brings adapters from storage or host memory into slots, beside the forwards; lives on the event loop."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._threads = ThreadPoolExecutor(LOADERS, "load")
        self._turns = Turns(LOADERS, MAX_LOADS)
        self._arrivals: dict[str, Arrival] = {}
        self._slotless: deque[asyncio.Future[int]] = deque()
        pool.on_idle = self._slot_freed

    async def pin(self, flow: str, digest: str, fetch: Fetch, deadline: float) -> Slot:
        """Takes the adapter's slot into use, loaded if need be; raises Overloaded, FolderRefused."""
        if slot := self._pool.take(digest):
            return slot
        arrival = self._arrivals.get(digest) or self._begin(flow, digest, fetch)
        self._join(arrival, flow)
        arrival.waiting += 1
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await asyncio.shield(arrival.task)
        except TimeoutError:
            self._leave(digest, arrival)
            raise Overloaded("the adapter could not be loaded before the request's deadline") from None
        except asyncio.CancelledError:
            self._leave(digest, arrival)
            raise

    def _begin(self, flow: str, digest: str, fetch: Fetch) -> Arrival:
        loop = asyncio.get_running_loop()
        arrival = Arrival(loop.create_future(), {flow})
        self._turns.ask(flow, arrival.ready)
        self._arrivals[digest] = arrival
        arrival.task = loop.create_task(self._arrive(digest, fetch, arrival))
        arrival.task.add_done_callback(seen)
        return arrival

    def _join(self, arrival: Arrival, flow: str) -> None:
        """Whoever joins has his own turn, too: what many ask for must not wait behind all that one of them asks for."""
        if flow not in arrival.flows and not arrival.ready.done():
            with suppress(Overloaded):  # it waits already
                self._turns.ask(flow, arrival.ready)
                arrival.flows.add(flow)

    def _leave(self, digest: str, arrival: Arrival) -> None:
        """One who waited has gone: what was taken into use for him is given back, after the last the place in line."""
        arrival.waiting -= 1
        if not arrival.waiting and not arrival.ready.done():
            del self._arrivals[digest]
            arrival.ready.cancel()
            self._turns.left(*arrival.flows)
        if arrival.slot is not None:
            self._pool.unpin(arrival.slot)

    async def _arrive(self, digest: str, fetch: Fetch, arrival: Arrival) -> Slot:
        try:
            await arrival.ready
            self._turns.left(*arrival.flows)
            try:
                return await self._load(digest, fetch, arrival)
            finally:
                self._turns.over()
        finally:
            if self._arrivals.get(digest) is arrival:
                del self._arrivals[digest]

    async def _load(self, digest: str, fetch: Fetch, arrival: Arrival) -> Slot:
        loop, pool = asyncio.get_running_loop(), self._pool
        arrival.refuse_abandoned()
        packed = pool.recall(digest)
        if packed is None:
            packed = await loop.run_in_executor(self._threads, pool.read, digest, fetch)
        number = await self._slot(arrival)
        try:
            generation = await loop.run_in_executor(self._threads, pool.fill, number, packed)
        except BaseException:
            pool.release(number)
            raise
        arrival.slot = pool.seat(number, packed, generation, pins=arrival.waiting)
        self._make_room()
        return arrival.slot

    async def _slot(self, arrival: Arrival) -> int:
        """A slot to fill, first come, first served."""
        arrival.refuse_abandoned()
        if not self._slotless:
            with suppress(NoSlotFree):
                return self._pool.reserve()
        given = asyncio.get_running_loop().create_future()
        self._slotless.append(given)
        self._make_room()
        number: int = await given
        if not arrival.waiting:
            self._pool.release(number)  # for the next in line
        arrival.refuse_abandoned()
        return number

    def _make_room(self) -> None:
        """For each who waits for a slot one that is in use takes nobody new."""
        while self._pool.leaving < len(self._slotless) and self._pool.retire():
            pass

    def _slot_freed(self) -> None:
        while self._slotless:
            if self._slotless[0].done():  # cancelled as the loop ends
                self._slotless.popleft()
                continue
            try:
                number = self._pool.reserve()
            except NoSlotFree:
                return
            self._slotless.popleft().set_result(number)


def seen(task: "asyncio.Task[Any]") -> None:
    """Looks at what a load ended with: all who waited may have left."""
    if not task.cancelled():
        task.exception()
