"""What waits, by customer: one of each flow in turn, so that one's flood does not starve another."""

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Overloaded(Exception):
    """Too much is waiting, or a row waited past its deadline; worth a retry."""


class Flows(Generic[T]):
    """Bounded: what does not fit is refused, never dropped.

    A flow may fill the room alone, but of those that wait each has its share: whoever comes to a room that another
    has filled is let in, up to the part that would be his.
    """

    def __init__(self, most: int) -> None:
        self._most = most
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
        if not self._flows:
            return None
        flow, queue = self._flows.popitem(last=False)
        item = queue.popleft()
        self._count -= 1
        if queue:
            self._flows[flow] = queue
        return item
