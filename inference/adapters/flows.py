"""What waits, by customer: one of each flow in turn, so that one's flood does not starve another."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Overloaded(Exception):
    """Too much is waiting, or a row waited past its deadline; worth a retry."""


class Flows(Generic[T]):
    """Bounded: what does not fit is refused, never dropped; what is ``dead`` when its turn comes takes none.

    A flow may fill the room alone, but of those that wait each has its share: whoever comes to a room that another
    has filled is let in, up to the part that would be his.
    """

    def __init__(self, most: int, dead: Callable[[T], bool] = lambda _: False) -> None:
        self._most = most
        self._dead = dead
        self._flows: OrderedDict[str, deque[T]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def refuse_full(self, flow: str, more: int) -> None:
        """Raises Overloaded if so many more of that flow do not fit."""
        own = len(self._flows.get(flow, ()))
        share = self._most // len({*self._flows, flow})
        if self._count + more > self._most and own + more > share:
            raise Overloaded(f"{self._count} are waiting, {own} of them yours; at most {self._most} may, {share} yours")

    def add(self, flow: str, items: Sequence[T]) -> None:
        """Behind what the flow has waiting; raises Overloaded, and adds none, if they do not all fit."""
        self.refuse_full(flow, len(items))
        self._flows.setdefault(flow, deque()).extend(items)
        self._count += len(items)

    def take(self) -> T | None:
        """The next of the flow whose turn it is; None if nothing waits."""
        while self._flows:
            flow, queue = self._flows.popitem(last=False)
            while queue:
                item = queue.popleft()
                self._count -= 1
                if not self._dead(item):
                    if queue:
                        self._flows[flow] = queue
                    return item
        return None

    def prune(self, flow: str) -> None:
        """Makes room of what is dead in a flow."""
        if queue := self._flows.get(flow):
            living = deque(item for item in queue if not self._dead(item))
            self._count -= len(queue) - len(living)
            if living:
                self._flows[flow] = living
            else:
                del self._flows[flow]


class Turns:
    """So many are at work at a time; the others wait, one of each flow in turn. Lives on the event loop."""

    def __init__(self, places: int, most: int) -> None:
        self._places = places
        self._waiting: Flows[asyncio.Future[None]] = Flows(most, lambda ready: ready.done())
        self.at_work = 0

    def ask(self, flow: str, ready: "asyncio.Future[None]") -> None:
        """Ends ``ready`` when there is a place, which ``over`` gives back; raises Overloaded.

        Who waits in several flows has the first place that comes to one of them.
        """
        if self.at_work < self._places:
            self.at_work += 1
            ready.set_result(None)
        else:
            self._waiting.add(flow, [ready])

    def over(self) -> None:
        """A place passes on."""
        if (ready := self._waiting.take()) is not None:
            ready.set_result(None)
        else:
            self.at_work -= 1

    def left(self, *flows: str) -> None:
        """Of these flows some wait no longer."""
        for flow in flows:
            self._waiting.prune(flow)

    @asynccontextmanager
    async def turn(self, flow: str) -> AsyncIterator[None]:
        """A place meanwhile; raises Overloaded."""
        ready = asyncio.get_running_loop().create_future()
        self.ask(flow, ready)
        try:
            await ready
        except asyncio.CancelledError:
            if ready.cancelled():
                self.left(flow)
            else:  # it had come already
                self.over()
            raise
        try:
            yield
        finally:
            self.over()
