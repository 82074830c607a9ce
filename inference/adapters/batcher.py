"""One base for everybody: rows of many customers in one forward, fair between flows, bounded, with deadlines."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from inference.adapters.flows import Flows, Overloaded
from inference.adapters.loads import PREFETCH, Loads
from inference.adapters.pool import Fetch, Pool, Slot
from inference.adapters.stacked import StackedModel
from inference.engine.batches import padded

log = logging.getLogger(__name__)

MAX_ROWS = 64
"""Rows of one forward."""
MAX_WAITING = 2048
"""Rows that may wait; more are refused, never dropped."""
ALONE_COSTS = 4
"""A row that is computed alone takes about the time of so many that are computed together."""


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
    alone: bool
    """In a forward of its own: its answer is the same to the bit whoever else asks."""
    answer: "asyncio.Future[Answered]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def ended(self) -> bool:
        """Whether nobody waits for it any more; whoever waits for one that is past its deadline is told so now."""
        if not self.answer.done() and time.monotonic() > self.deadline:
            self.answer.set_exception(Overloaded("the request waited past its deadline"))
        return self.answer.done()


class Batcher:
    """A batch is whatever waits when the model is free: no timer. All forwards run in one thread."""

    def __init__(
        self, model: StackedModel, pool: Pool, alarm: Callable[[str], Any] = print, *, deterministic: bool = False
    ) -> None:
        self._model = model
        self._pool = pool
        self._loads = Loads(pool)
        self._alarm = alarm
        self._deterministic = deterministic
        self._flows: Flows[Waiting] = Flows(MAX_WAITING, Waiting.ended)
        self._thread = ThreadPoolExecutor(1, "forward")
        self._running: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def held(self, flow: str, digest: str, fetch: Fetch, deadline: float) -> AsyncIterator[Slot]:
        """The adapter's slot, in use meanwhile; raises Overloaded, FolderRefused."""
        slot = await self._loads.pin(flow, digest, fetch, deadline)
        try:
            yield slot
        finally:
            self._pool.unpin(slot)

    def refuse_full(self, flow: str, rows: int) -> None:
        """Raises Overloaded if so many more rows of that flow may not wait: before anything is loaded for them."""
        self._flows.refuse_full(flow, rows)

    async def rows(
        self, flow: str, digest: str, fetch: Fetch, ids: list[list[int]], deadline_s: float
    ) -> list[Answered]:
        """Answers for encoded rows of one flow, by the adapter of that digest; raises Overloaded, FolderRefused."""
        self.refuse_full(flow, len(ids))
        deadline = time.monotonic() + deadline_s
        async with self.held(flow, digest, fetch, deadline) as slot:
            return await self.answers(flow, slot, ids, deadline)

    async def load(self, digest: str, fetch: Fetch, deadline_s: float) -> Slot:
        """Brings an adapter into a slot before anybody asks."""
        async with self.held(PREFETCH, digest, fetch, time.monotonic() + deadline_s) as slot:
            return slot

    async def answers(
        self, flow: str, slot: Slot, ids: list[list[int]], deadline: float, *, alone: bool = False
    ) -> list[Answered]:
        """Answers for encoded rows of one flow, by an adapter whose slot is held; raises Overloaded."""
        waiting = [Waiting(row, slot, deadline, alone or self._deterministic) for row in ids]
        self._flows.add(flow, waiting)
        self._wake()
        try:
            return list(await asyncio.gather(*(each.answer for each in waiting)))
        except BaseException:
            for each in waiting:
                each.answer.cancel()
            self._flows.prune(flow)
            raise

    def _wake(self) -> None:
        if self._running is None or self._running.done():
            self._running = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while batch := self._next():
            await self._answer(batch)
            if changed := self._pool.scrub():
                self._cry(f"the weights of {changed} changed in memory; the slot was emptied")

    def _next(self) -> list[Waiting]:
        """Up to MAX_ROWS rows that are in time, one from each flow in turn; sorted by slot, as the model likes them."""
        batch: list[Waiting] = []
        room = MAX_ROWS
        while room > 0 and (each := self._flows.take()):
            batch.append(each)
            room -= ALONE_COSTS if each.alone else 1
        return sorted(batch, key=lambda each: (each.alone, each.slot.number))

    async def _answer(self, batch: list[Waiting]) -> None:
        """Its slots stay in use until the forward has ended, whoever leaves meanwhile."""
        slots = {each.slot.number: each.slot for each in batch}.values()
        for slot in slots:
            slot.pins += 1
        try:
            await self._answer_held(batch)
        finally:
            for slot in slots:
                self._pool.unpin(slot)

    async def _answer_held(self, batch: list[Waiting]) -> None:
        """Of rows that fail together each half is tried again: only that fails at which it lies."""
        batch = [each for each in batch if not each.ended()]
        if not batch:
            return
        try:
            loop = asyncio.get_running_loop()
            answers = await loop.run_in_executor(self._thread, self._forward, batch)
            for each, answer in zip(batch, answers, strict=True):
                self._check(each.slot, answer.digest)
                if not each.answer.done():
                    each.answer.set_result(answer)
        except asyncio.CancelledError:
            raise
        except BaseException as fault:  # also a panic in a library: the rows' own callers get it
            if len(batch) > 1:
                half = len(batch) // 2
                await self._answer_held(batch[:half])
                await self._answer_held(batch[half:])
            else:
                if not batch[0].answer.done():
                    batch[0].answer.set_exception(fault)
                self._check(batch[0].slot, self._model.table.digest(batch[0].slot.number))

    def _check(self, slot: Slot, found: str) -> None:
        """A slot that holds another's weights is not used again as it is."""
        if found != slot.digest and self._pool.distrust(slot):
            self._cry(f"slot {slot.number} holds {found} instead of {slot.digest}")

    def _cry(self, message: str) -> None:
        """Nobody goes without an answer because the alarm is broken."""
        try:
            self._alarm(message)
        except Exception:
            log.exception("the alarm failed: %s", message)

    @torch.inference_mode()
    def _forward(self, batch: list[Waiting]) -> list[Answered]:
        """One base forward for all but those alone; what identifies an answer is read afterwards, from its own row."""
        together = [each for each in batch if not each.alone]
        parts = [together] if together else []
        answers: list[Answered] = []
        for part in [*parts, *([each] for each in batch if each.alone)]:
            slots = [each.slot.number for each in part]
            vectors = self._model.vectors(*padded([each.ids for each in part]), slots)
            answers += map(self._answered, vectors, slots, self._model.table.digests(slots))
        return answers

    def _answered(self, vector: Tensor, slot: int, digest: str) -> Answered:
        table = self._model.table
        return Answered(vector, table.contents[digest].logits(vector), digest, table.generations[slot])
