"""Look-ups that may be a little old: remembered for a while, asked once however many wait for them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

SIZE = 10_000


class Fresh(Generic[K, V]):
    """Values at most ``life_s`` seconds old, counted from before they were asked for; failures are not remembered."""

    def __init__(self, load: Callable[[K], Awaitable[V]], life_s: float) -> None:
        self._load = load
        self._life_s = life_s
        self._known: dict[K, tuple[float, asyncio.Future[V]]] = {}

    async def get(self, key: K) -> V:
        """The value; raises what the look-up raises."""
        ends, value = self._known.get(key, (0.0, None))
        if value is None or ends < time.monotonic():
            value = self._ask(key)
        return value.result() if value.done() else await asyncio.shield(value)

    def _ask(self, key: K) -> asyncio.Future[V]:
        if len(self._known) >= SIZE:
            self._known.clear()
        value = asyncio.ensure_future(self._load(key))
        entry = self._known[key] = (time.monotonic() + self._life_s, value)
        value.add_done_callback(lambda done: self._forget_failure(key, entry, done))
        return value

    def _forget_failure(self, key: K, entry: tuple[float, asyncio.Future[V]], done: asyncio.Future[V]) -> None:
        if (done.cancelled() or done.exception()) and self._known.get(key) is entry:
            del self._known[key]
