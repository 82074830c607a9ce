"""Adapters on their way into slots: one of each customer in turn, each read once however many ask for it."""

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from inference.adapters.flows import Flows, Overloaded
from inference.adapters.pool import Fetch, NoSlotFree, Pool, Slot

LOADERS = 4
"""Adapters that are read, or wait for a slot, at one time."""
MAX_LOADS = 1024
"""Adapters that may wait for a loader; more are refused."""


@dataclass
class Arrival:
    """An adapter under way, and how many wait for it."""

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
        self._turns: Flows[asyncio.Future[None]] = Flows(MAX_LOADS)
        self._at_work = 0
        self._arrivals: dict[str, Arrival] = {}
        self._slotless: deque[asyncio.Future[None]] = deque()
        pool.on_idle = self._slot_freed

    async def pin(self, flow: str, digest: str, fetch: Fetch, deadline: float) -> Slot:
        """Takes the adapter's slot into use, loaded if need be; raises Overloaded, FolderRefused."""
        if slot := self._pool.take(digest):
            return slot
        arrival = self._arrivals.get(digest) or self._begin(flow, digest, fetch)
        arrival.waiting += 1
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await asyncio.shield(arrival.task)
        except TimeoutError:
            self._leave(arrival)
            raise Overloaded("the adapter could not be loaded before the request's deadline") from None
        except asyncio.CancelledError:
            self._leave(arrival)
            raise

    def _begin(self, flow: str, digest: str, fetch: Fetch) -> Arrival:
        arrival = self._arrivals[digest] = Arrival()
        arrival.task = asyncio.get_running_loop().create_task(self._arrive(flow, digest, fetch, arrival))
        arrival.task.add_done_callback(_seen)
        return arrival

    def _leave(self, arrival: Arrival) -> None:
        """One who waited has gone: what was taken into use for him is given back."""
        arrival.waiting -= 1
        if arrival.slot is not None:
            self._pool.unpin(arrival.slot)

    async def _arrive(self, flow: str, digest: str, fetch: Fetch, arrival: Arrival) -> Slot:
        try:
            await self._turn(flow)
            try:
                return await self._load(digest, fetch, arrival)
            finally:
                self._turn_over()
        finally:
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
        return arrival.slot

    async def _slot(self, arrival: Arrival) -> int:
        """A slot to fill, as soon as one is not in use."""
        while True:
            try:
                return self._pool.reserve()
            except NoSlotFree:
                freed = asyncio.get_running_loop().create_future()
                self._slotless.append(freed)
                await freed
            if not arrival.waiting:
                self._slot_freed()  # for the next in line
            arrival.refuse_abandoned()

    def _slot_freed(self) -> None:
        while self._slotless:
            freed = self._slotless.popleft()
            if not freed.done():  # cancelled as the loop ends
                freed.set_result(None)
                return

    async def _turn(self, flow: str) -> None:
        """Waits until one of the loaders is this flow's."""
        if self._at_work < LOADERS:
            self._at_work += 1
            return
        ready = asyncio.get_running_loop().create_future()
        self._turns.add(flow, [ready])
        await ready

    def _turn_over(self) -> None:
        while (ready := self._turns.take()) is not None:
            if not ready.done():
                ready.set_result(None)  # the loader passes on
                return
        self._at_work -= 1


def _seen(task: "asyncio.Task[Slot]") -> None:
    """Looks at what a load ended with: all who waited may have left."""
    if not task.cancelled():
        task.exception()
