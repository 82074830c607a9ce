"""Answers the contract's predictions from one base: encode, batch, decode."""

import asyncio
import base64
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch
from tilth.contract.digest import base_digest
from tilth.contract.errors import ContractError
from tilth.contract.messages import (
    EmbedReply,
    EmbedRequest,
    LoadReply,
    LoadRequest,
    ModelRef,
    PredictionUsage,
    PredictReply,
    PredictRequest,
)
from tilth.contract.registry import vertical

from inference.adapters.batcher import Answered, Batcher
from inference.adapters.flows import Overloaded, Turns
from inference.adapters.folder import FEATURES, AdapterFolder, FolderRefused, bare, read_folder
from inference.adapters.pool import Pool
from inference.adapters.stacked import StackedModel
from inference.engine.base_models import CHARACTERS, Base
from inference.engine.heads import linear_names
from inference.engine.task import Encodes, Features, Task, load_task
from inference.storage import Storage

RANK = 16
LOAD_S = 30.0
MAX_ENCODING = 1024
"""Requests whose texts may wait for the tokeniser; more are refused."""
T = TypeVar("T")


class BaseService:
    """One base model, its slots and its batcher."""

    def __init__(
        self, base: Base, storage: Storage, *, slots: int, memory_mb: int = 2048, dtype: torch.dtype = torch.float32,
        deterministic: bool = False, alarm: Callable[[str], object] = print,
    ) -> None:  # fmt: skip
        self._base = base
        self._storage = storage
        self.model = StackedModel(base.model, linear_names(base.model), slots=slots, rank=RANK, dtype=dtype)
        self.pool = Pool(self.model.table, base.hidden_size, memory_mb=memory_mb)
        self._batcher = Batcher(self.model, self.pool, alarm, deterministic=deterministic)
        self._tokenizer = ThreadPoolExecutor(1, "encode")
        self._encoding = Turns(1, MAX_ENCODING)
        self._tasks: dict[str, Task] = {}

    async def predict(self, request: PredictRequest) -> PredictReply:
        """Answers all rows by one model; its digest is that of the slot's own row after the forward."""
        ref, deadline = request.model, time.monotonic() + request.deadline_ms / 1000
        self._batcher.refuse_full(request.flow, len(request.inputs))
        async with self._batcher.held(request.flow, ref.digest, partial(self._fetch, ref), deadline) as slot:
            task, features = self._task(ref.vertical), slot.packed.features
            ids = await self._encoded(request.flow, deadline, partial(self._encode, task, features, request))
            answers = await self._batcher.answers(request.flow, slot, ids, deadline, alone=ref.deterministic)
        return _reply(task, features, answers, tuple(map(len, ids)))

    async def embed(self, request: EmbedRequest) -> EmbedReply:
        """Unit vectors of texts, by a fine-tuned model's encoder or by the base alone; raises TooLong."""
        ref, deadline = request.model, time.monotonic() + request.deadline_ms / 1000
        self._batcher.refuse_full(request.flow, len(request.texts))
        ids = await self._encoded(request.flow, deadline, partial(self._whole, request.texts))
        digest = ref.digest if ref else base_digest(request.base_model, self._base.revision)
        fetch = partial(self._fetch, ref) if ref else partial(bare, digest, self._base.hidden_size)
        async with self._batcher.held(request.flow, digest, fetch, deadline) as slot:
            alone = ref is not None and ref.deterministic
            answers = await self._batcher.answers(request.flow, slot, ids, deadline, alone=alone)
        first, tokens = _same_model(answers), tuple(map(len, ids))
        vectors = torch.stack([each.vector for each in answers]).float().numpy().astype("<f4")
        return EmbedReply(
            vectors=tuple(base64.b64encode(vector.tobytes()).decode() for vector in vectors), width=vectors.shape[1],
            digest=first.digest, generation=first.generation, usage=_usage(tokens), tokens=tokens,
        )  # fmt: skip

    async def load(self, request: LoadRequest) -> LoadReply:
        """Brings a model into a slot before anybody asks."""
        slot = await self._batcher.load(request.model.digest, partial(self._fetch, request.model), LOAD_S)
        return LoadReply(digest=self.model.table.digest(slot.number), generation=slot.generation)

    async def _encoded(self, flow: str, deadline: float, encode: Callable[[], T]) -> T:
        """One request of each flow in turn; raises Overloaded."""
        try:
            async with asyncio.timeout(deadline - time.monotonic()), self._encoding.turn(flow):
                return await asyncio.get_running_loop().run_in_executor(self._tokenizer, encode)
        except TimeoutError:
            raise Overloaded("the request's texts could not be read before its deadline") from None

    def _encode(self, task: Task, features: Features, request: PredictRequest) -> list[list[int]]:
        if not isinstance(task, Encodes):
            raise FolderRefused(f"{request.model.vertical} has no texts to encode; its models are no adapters")
        return task.encode(request.inputs, features, self._base)

    def _whole(self, texts: tuple[str, ...]) -> list[list[int]]:
        """Token ids of texts, none cut off."""
        most = self._base.longest
        ids = self._base.encode(list(texts), most + 1)
        for at, (text, row) in enumerate(zip(texts, ids, strict=True)):
            if len(row) > most or len(text) > most * CHARACTERS:
                raise TooLong(f"input {at} has more than {most} tokens, which {self._base.id} reads at most; cut it")
        return ids

    def _task(self, name: str) -> Task:
        if name not in self._tasks:
            self._tasks[name] = load_task(vertical(name))
        return self._tasks[name]

    def _fetch(self, ref: ModelRef) -> AdapterFolder:
        names = self._storage.names(ref.folder)
        folder = read_folder({name: self._storage.read(ref.folder, name) for name in names})
        try:
            width = self._task(ref.vertical).objective(folder.features).width
        except (KeyError, TypeError, ValueError) as cause:
            raise FolderRefused(f"{FEATURES} is none of {ref.vertical}'s: {cause!r}") from cause
        if (classes := len(folder.head["bias"])) != width:
            raise FolderRefused(f"the head has {classes} outputs, {FEATURES} names {width}")
        return folder


def _reply(task: Task, features: Features, answers: list[Answered], tokens: tuple[int, ...]) -> PredictReply:
    """``tokens`` are those of each row."""
    first = _same_model(answers)
    if (width := first.logits.shape[0]) != (wanted := task.objective(features).width):
        raise MixedAnswer(f"the adapter that answered has {width} outputs, the model has {wanted}")
    predictions = task.answer(torch.stack([each.logits for each in answers]), features)
    return PredictReply(
        predictions=tuple(predictions), digest=first.digest, generation=first.generation, usage=_usage(tokens),
        tokens=tokens,
    )  # fmt: skip


def _usage(tokens: tuple[int, ...]) -> PredictionUsage:
    return PredictionUsage(rows=len(tokens), tokens=sum(tokens))


def _same_model(answers: list[Answered]) -> Answered:
    """The first of them, if one adapter answered all."""
    first = answers[0]
    if any((each.digest, each.generation) != (first.digest, first.generation) for each in answers):
        raise MixedAnswer("the rows of one request were answered by different adapters")
    return first


class TooLong(ContractError):
    """A text is longer than the base model reads."""


class MixedAnswer(RuntimeError):
    """Weights moved under a request; the answer is not shown."""
