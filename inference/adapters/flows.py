"""What waits, by customer: one of each flow in turn, so that one's flood does not starve another."""

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Overloaded(Exception):
    """Too much is waiting, or a row waited past its deadline; worth a retry."""


class Flows(Generic[T]):
    """Bounded: what does not fit is refused, never dropped."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._flows: OrderedDict[str, deque[T]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def refuse_full(self, more: int) -> None:
        """Raises Overloaded if so many more do not fit."""
        if self._count + more > self._most:
            raise Overloaded(f"{self._count} are waiting; at most {self._most} may")

    def add(self, flow: str, items: Sequence[T]) -> None:
        """Behind what the flow has waiting; raises Overloaded, and adds none, if they do not all fit."""
        self.refuse_full(len(items))
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
