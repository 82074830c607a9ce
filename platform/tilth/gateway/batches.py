"""Batches without a timer: what waits when the connection is free goes out together."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

LARGEST = 500


class Batches(Generic[T, R]):
    """Hands waiting items to ``flush``, one batch at a time; it returns a result or an exception for each."""

    def __init__(self, flush: Callable[[list[T]], Awaitable[list[R | Exception]]]) -> None:
        self._flush = flush
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._busy: asyncio.Task[None] | None = None

    async def ask(self, item: T) -> R:
        """The result for one item; raises its exception."""
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if self._busy is None:
            self._busy = asyncio.create_task(self._drain())
        return await answer

    async def idle(self) -> None:
        """Returns when nothing is under way."""
        while self._busy is not None:
            await asyncio.wait([self._busy])

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:LARGEST], self._waiting[LARGEST:]
                await self._one(batch)
        finally:
            self._busy = None

    async def _one(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._flush([item for item, _ in batch])
        except Exception as error:
            results = [error] * len(batch)
        for (_, answer), result in zip(batch, results, strict=True):
            if answer.done():
                continue
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)
