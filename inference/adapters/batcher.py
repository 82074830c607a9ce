"""One base for everybody: rows of many customers in one forward, fair between flows, bounded, with deadlines."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from inference.adapters.flows import Flows, Overloaded
from inference.adapters.pool import Fetch, NoSlotFree, Pool, Slot
from inference.adapters.stacked import StackedModel
from inference.engine.batches import padded

MAX_ROWS = 64
"""Rows of one forward."""
MAX_WAITING = 2048
"""Rows that may wait; more are refused, never dropped."""
RETRY_S = 0.01


@dataclass(frozen=True)
class Answered:
    """One row's vector [hidden] and logits [classes], with what the slot table said after the forward."""

    vector: Tensor
    logits: Tensor
    digest: str
    generation: int


@dataclass
class Waiting:
    """One row that waits for its forward."""

    ids: list[int]
    slot: Slot
    deadline: float
    answer: "asyncio.Future[Answered]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher:
    """A batch is whatever waits when the model is free: no timer. All forwards run in one thread."""

    def __init__(self, model: StackedModel, pool: Pool, alarm: Callable[[str], Any] = print) -> None:
        self._model = model
        self._pool = pool
        self._alarm = alarm
        self._flows: Flows[Waiting] = Flows(MAX_WAITING)
        self._thread = ThreadPoolExecutor(1, "forward")
        self._loaders = ThreadPoolExecutor(4, "load")
        self._running: asyncio.Task[None] | None = None

    async def rows(
        self, flow: str, digest: str, fetch: Fetch, ids: list[list[int]], deadline_s: float
    ) -> list[Answered]:
        """Answers for encoded rows of one flow, by the adapter of that digest; raises Overloaded, FolderRefused."""
        self._flows.refuse_full(len(ids))
        deadline = time.monotonic() + deadline_s
        slot = await self._pin(digest, fetch, deadline)
        try:
            waiting = [Waiting(row, slot, deadline) for row in ids]
            self._flows.add(flow, waiting)
            self._wake()
            return list(await asyncio.gather(*(each.answer for each in waiting)))
        finally:
            self._pool.unpin(slot)

    async def load(self, digest: str, fetch: Fetch, deadline_s: float) -> Slot:
        """Brings an adapter into a slot before anybody asks."""
        slot = await self._pin(digest, fetch, time.monotonic() + deadline_s)
        self._pool.unpin(slot)
        return slot

    async def _pin(self, digest: str, fetch: Fetch, deadline: float) -> Slot:
        loop = asyncio.get_running_loop()
        while True:
            try:
                return await loop.run_in_executor(self._loaders, self._pool.pin, digest, fetch)
            except NoSlotFree as full:
                if time.monotonic() > deadline:
                    raise Overloaded(str(full)) from full
                await asyncio.sleep(RETRY_S)

    def _wake(self) -> None:
        if self._running is None or self._running.done():
            self._running = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while batch := self._next():
            await self._answer(batch)
            if changed := self._pool.scrub():
                self._alarm(f"the weights of {changed} changed in memory; the slot was emptied")

    def _next(self) -> list[Waiting]:
        """Up to MAX_ROWS rows that are in time, one from each flow in turn; sorted by slot, as the model likes them."""
        batch: list[Waiting] = []
        while len(batch) < MAX_ROWS and (each := self._flows.take()):
            if each.answer.cancelled():
                continue
            if time.monotonic() > each.deadline:
                each.answer.set_exception(Overloaded("the request waited past its deadline"))
                continue
            batch.append(each)
        return sorted(batch, key=lambda each: each.slot.number)

    async def _answer(self, batch: list[Waiting]) -> None:
        try:
            loop = asyncio.get_running_loop()
            answers = await loop.run_in_executor(self._thread, self._forward, batch)
        except Exception as fault:  # the rows' own callers get it; the next batch goes on
            for each in batch:
                if not each.answer.done():
                    each.answer.set_exception(fault)
            return
        for each, answer in zip(batch, answers, strict=True):
            if not each.answer.done():
                each.answer.set_result(answer)

    @torch.inference_mode()
    def _forward(self, batch: list[Waiting]) -> list[Answered]:
        """One base forward; what identifies each answer is read afterwards, from the row that computed it."""
        slots = [each.slot.number for each in batch]
        vectors = self._model.vectors(*padded([each.ids for each in batch]), slots)
        table = self._model.table
        answers = [
            Answered(vector, self._model.logits(vector, slot), table.digest(slot), table.generations[slot])
            for vector, slot in zip(vectors, slots, strict=True)
        ]
        for each, answer in zip(batch, answers, strict=True):
            if answer.digest != each.slot.digest and not each.slot.distrusted:
                self._pool.distrust(each.slot)
                self._alarm(f"slot {each.slot.number} holds {answer.digest} instead of {each.slot.digest}")
        return answers
