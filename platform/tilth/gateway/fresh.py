"""Look-ups that may be a little old: remembered for a while, asked once however many wait for them."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

SIZE = 5_000


class Fresh(Generic[K, V]):
    """Values at most ``life_s`` seconds old, counted from before they were asked for; failures are not remembered.

    What is too old is dropped when something new comes, and beyond SIZE the oldest.
    """

    def __init__(self, load: Callable[[K], Awaitable[V]], life_s: float) -> None:
        self._load = load
        self._life_s = life_s
        self._known: OrderedDict[K, tuple[float, asyncio.Future[V]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    async def get(self, key: K) -> V:
        """The value; raises what the look-up raises."""
        ends, value = self._known.get(key, (0.0, None))
        if value is None or ends < time.monotonic():
            value = self._ask(key)
        return value.result() if value.done() else await asyncio.shield(value)

    def _ask(self, key: K) -> asyncio.Future[V]:
        self._known.pop(key, None)
        self._make_room()
        value = asyncio.ensure_future(self._load(key))
        entry = self._known[key] = (time.monotonic() + self._life_s, value)
        value.add_done_callback(lambda done: self._forget_failure(key, entry, done))
        return value

    def _make_room(self) -> None:
        """In the order of asking, which is the order of ageing."""
        moment = time.monotonic()
        while self._known and (len(self._known) >= SIZE or next(iter(self._known.values()))[0] < moment):
            self._known.popitem(last=False)

    def _forget_failure(self, key: K, entry: tuple[float, asyncio.Future[V]], done: asyncio.Future[V]) -> None:
        if (done.cancelled() or done.exception()) and self._known.get(key) is entry:
            del self._known[key]
