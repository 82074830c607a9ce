"""Answers the contract's predictions from whole models: fair between flows, bounded, with deadlines."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tilth.contract.messages import LoadReply, LoadRequest, ModelRef, PredictionUsage, PredictReply, PredictRequest

from inference.adapters.flows import Flows, Overloaded, Turns
from inference.adapters.loads import LOADERS, MAX_LOADS, PREFETCH, seen
from inference.engine.base_models import Bases
from inference.storage import Storage
from inference.wholes.cabinet import Cabinet, Filed
from inference.wholes.folder import WholeFolder, read_whole

MAX_WAITING = 2048
"""Requests that may wait; more are refused, never dropped."""


@dataclass
class Asked:
    """A request that waits for its turn."""

    request: PredictRequest
    whole: Filed
    deadline: float
    answer: "asyncio.Future[PredictReply]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass
class Load:
    """A model that is read, and how many wait for it."""

    waiting: int = 0
    task: "asyncio.Task[Filed]" = field(init=False)


class WholeService:
    """Many whole models in one process; they compute one after the other, one request of each flow in turn."""

    def __init__(self, storage: Storage, bases: Bases, *, capacity: int) -> None:
        self._storage = storage
        self.cabinet = Cabinet(capacity, bases)
        self._flows: Flows[Asked] = Flows(MAX_WAITING)
        self._thread = ThreadPoolExecutor(1, "answer")
        self._loaders = ThreadPoolExecutor(LOADERS, "load")
        self._turns = Turns(LOADERS, MAX_LOADS)
        self._loads: dict[str, Load] = {}
        self._running: asyncio.Task[None] | None = None

    async def predict(self, request: PredictRequest) -> PredictReply:
        """Answers all rows by one model; raises Overloaded, FolderRefused, InputRefused."""
        self._flows.refuse_full(request.flow, 1)
        deadline = time.monotonic() + request.deadline_ms / 1000
        try:
            whole = await asyncio.wait_for(self._whole(request.flow, request.model), request.deadline_ms / 1000)
        except TimeoutError:
            raise Overloaded("the model could not be read before the request's deadline") from None
        asked = Asked(request, whole, deadline)
        self._flows.add(request.flow, [asked])
        if self._running is None or self._running.done():
            self._running = asyncio.get_running_loop().create_task(self._run())
        return await asked.answer

    async def load(self, request: LoadRequest) -> LoadReply:
        """Reads a model before anybody asks."""
        whole = await self._whole(PREFETCH, request.model)
        return LoadReply(digest=whole.digest, generation=whole.generation)

    async def _whole(self, flow: str, ref: ModelRef) -> Filed:
        """From memory at once; else read once for all who wait, one model of each flow in turn."""
        if found := self.cabinet.known(ref.digest):
            return found
        if (load := self._loads.get(ref.digest)) is None:
            load = self._loads[ref.digest] = Load()
            load.task = asyncio.get_running_loop().create_task(self._load(flow, ref, load))
            load.task.add_done_callback(seen)
        load.waiting += 1
        try:
            return await asyncio.shield(load.task)
        finally:
            load.waiting -= 1

    async def _load(self, flow: str, ref: ModelRef, load: Load) -> Filed:
        try:
            async with self._turns.turn(flow):
                if not load.waiting:
                    raise Overloaded("whoever asked for the model has gone")
                loop, fetch = asyncio.get_running_loop(), partial(self._fetch, ref)
                return await loop.run_in_executor(self._loaders, self.cabinet.load, ref, fetch)
        finally:
            del self._loads[ref.digest]

    def _fetch(self, ref: ModelRef) -> WholeFolder:
        names = self._storage.names(ref.folder)
        return read_whole({name: self._storage.read(ref.folder, name) for name in names})

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while asked := self._flows.take():
            if asked.answer.cancelled():
                continue
            if time.monotonic() > asked.deadline:
                asked.answer.set_exception(Overloaded("the request waited past its deadline"))
                continue
            try:
                answer: Any = await loop.run_in_executor(self._thread, _answer, asked.whole, asked.request)
            except asyncio.CancelledError:
                asked.answer.cancel()
                raise
            except BaseException as fault:  # also a panic in a library: its own caller gets it, the next is answered
                if not asked.answer.done():
                    asked.answer.set_exception(fault)
            else:
                if not asked.answer.done():
                    asked.answer.set_result(answer)


def _answer(whole: Filed, request: PredictRequest) -> PredictReply:
    """What identifies the answer is read from the model that computed it, never from the request."""
    found = whole.model.answer(request.inputs)
    predictions = whole.task.answer(found.outputs, whole.features)
    usage = PredictionUsage(rows=len(request.inputs), tokens=sum(found.tokens))
    return PredictReply(
        predictions=tuple(predictions), digest=whole.digest, generation=whole.generation, usage=usage,
        tokens=found.tokens,
    )  # fmt: skip
