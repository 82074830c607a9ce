"""Customers with a deployed adapter each, the truth about every answer, and a host that can be killed under load."""

import asyncio
import copy
import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tilth.contract.digest import MANIFEST, folder_digest
from tilth.contract.messages import ModelRef, PredictReply, PredictRequest
from torch import Tensor, nn

from inference.adapters.flows import Overloaded
from inference.adapters.folder import CARD, FEATURES, adapter_files
from inference.adapters.pooling import mean_pooled
from inference.adapters.service import BaseService, MixedAnswer
from inference.adapters.slots import Packed
from inference.engine.base_models import Base
from inference.engine.batches import padded
from inference.engine.heads import Head, head_file, linear_names
from inference.engine.precision import device

TEXTS = ("card lost", "where is my parcel please", "refund my money back not late", "help")
LABELS = ("yes", "no", "later")
CLIENTS = 96


@dataclass(frozen=True)
class Version:
    """A fine-tuned model in storage, and what it answers to each text, computed alone by merged weights."""

    ref: ModelRef
    truth: dict[str, Tensor]


@dataclass
class World:
    """What is deployed by whom; every fourth customer has a second version waiting."""

    base: Base
    fresh: Callable[[], Base]
    place: Any
    versions: list[list[Version]]
    current: list[Version] = field(init=False)

    def __post_init__(self) -> None:
        self.current = [first for first, *_ in self.versions]

    def service(self, slots: int) -> BaseService:
        """A host as it starts."""
        return BaseService(self.fresh(), self.place.storage, slots=slots, alarm=lambda _: None)

    def redeploy(self, customer: int) -> None:
        """The customer's other version answers from now on, if there is one."""
        self.current[customer] = next(
            (other for other in self.versions[customer] if other is not self.current[customer]), self.current[customer]
        )


def make_world(base: Base, fresh: Callable[[], Base], place: Any, customers: int) -> World:
    """Random adapters in storage, one or two for each customer."""
    made = [
        [make_version(base, place, 2 * number + n) for n in range(2 if number % 4 == 0 else 1)]
        for number in range(customers)
    ]
    return World(base, fresh, place, made)


def make_version(
    base: Base, place: Any, seed: int, *, rank: int | None = None, spread: float = 0.2, texts: Sequence[str] = TEXTS
) -> Version:
    """A random adapter: its folder as it is stored, its answers from weights merged into a copy of the base."""
    torch.manual_seed(seed)
    model, rank = copy.deepcopy(base.model), rank or 1 + seed % 8
    tensors: dict[str, Tensor] = {}
    for name in linear_names(base.model):
        weight: Any = model.get_submodule(name).weight
        a, b = torch.randn(rank, weight.shape[1]) * spread, torch.randn(weight.shape[0], rank) * spread
        weight.data += (2.0 * b @ a).to(device())
        at = f"base_model.model.{name}"
        tensors |= {f"{at}.lora_A.weight": a, f"{at}.lora_B.weight": b}
    head = {"weight": torch.randn(len(LABELS), base.hidden_size), "bias": torch.randn(len(LABELS))}
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank}
    features = {"labels": list(LABELS), "max_length": 32}
    files = adapter_files(tensors, config) | head_file(Head(**head))
    files |= {FEATURES: json.dumps(features).encode(), CARD: b"# A card\n"}
    names = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    digest = folder_digest(names)
    files[MANIFEST] = json.dumps({"files": names, "digest": digest, "format": 1}).encode()
    for name, data in files.items():
        place.storage.write(place.grant(f"m{seed}/", "write"), name, data)
    grant = place.grant(f"m{seed}/", life_s=100_000)
    ref = ModelRef(digest=digest, folder=grant, vertical="support_chat", base_model=base.id)
    return Version(ref, {text: _alone(base, model, head, text) for text in texts})


def _alone(base: Base, model: Any, head: dict[str, Tensor], text: str) -> Tensor:
    input_ids, mask = (each.to(device()) for each in padded(base.encode([text], 32)))
    with torch.inference_mode():
        vector = mean_pooled(model(input_ids=input_ids, attention_mask=mask).last_hidden_state, mask).cpu()
        return (vector @ head["weight"].T + head["bias"]).softmax(1)[0]


@dataclass
class Stay:
    """How long an adapter was in a slot of one host, in ticks of the storm."""

    generation: int
    since: int
    until: int | None = None


@dataclass
class Storm:
    """Clients that ask without a pause while adapters are loaded, evicted and replaced and the host is killed."""

    world: World
    slots: int
    requests: int
    near: float
    random: random.Random
    wrong: list[str] = field(default_factory=list)
    answered: int = 0
    loaded: int = 0
    killed: int = 0
    redeployed: int = 0
    asked: int = 0
    tick: int = 0

    async def rage(self) -> None:
        """Until all requests are answered."""
        self._start()
        clients = [asyncio.create_task(self._client()) for _ in range(CLIENTS)]
        harm = asyncio.create_task(self._harm())
        await asyncio.gather(*clients)
        harm.cancel()

    def _start(self) -> None:
        self.stays: dict[str, list[Stay]] = {}
        self.host = self.world.service(self.slots)
        self.flying: set[asyncio.Task[PredictReply]] = set()
        pool, stays = self.host.pool, self.stays
        seat, empty, present = pool.seat, pool._empty, dict[int, Stay]()

        def seated(number: int, packed: Packed, generation: int, *, pins: int) -> Any:
            self.loaded += 1
            stay = present[number] = Stay(generation, self.tick)
            stays.setdefault(packed.digest, []).append(stay)
            return seat(number, packed, generation, pins=pins)

        def emptied(slot: Any) -> None:
            present[slot.number].until = self.tick
            empty(slot)

        pool.seat, pool._empty = seated, emptied  # type: ignore[method-assign]

    async def _client(self) -> None:
        while self.asked < self.requests:
            self.asked += 1
            customer, text = self.random.randrange(len(self.world.current)), self.random.choice(TEXTS)
            while not await self._ask(customer, text):  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def _ask(self, customer: int, text: str) -> bool:
        """One request, judged; False if the host died under it or refused it."""
        version, stays, since = self.world.current[customer], self.stays, self.tick
        request = PredictRequest(flow=f"c{customer}", model=version.ref, inputs=({"text": text},), deadline_ms=60_000)
        task = asyncio.create_task(self.host.predict(request))
        self.flying.add(task)
        try:
            reply = await task
        except (asyncio.CancelledError, Overloaded, MixedAnswer):
            return False
        except Exception as error:  # a host that is broken on purpose may break in any way
            self.wrong.append(repr(error))
            return True
        finally:
            self.flying.discard(task)
            self.tick += 1
        self.answered += 1
        self._judge(version, text, reply, [stay for stay in stays[version.ref.digest] if _met(stay, since)])
        return True

    def _judge(self, version: Version, text: str, reply: PredictReply, stays: list[Stay]) -> None:
        found = reply.predictions[0].probabilities or {}
        off = (torch.tensor([found[label] for label in LABELS]) - version.truth[text]).abs().max().item()
        if reply.digest != version.ref.digest:
            self.wrong.append(f"{version.ref.digest} was deployed, {reply.digest} answered")
        elif off > self.near:
            self.wrong.append(f"{reply.digest} answered {text!r} off by {off}")
        elif reply.generation not in {stay.generation for stay in stays}:
            self.wrong.append(f"{reply.digest} answered from generation {reply.generation}, it was in {stays}")

    async def _harm(self) -> None:
        """Redeploys all the while; kills the host four times."""
        kills = [self.requests * n // 5 for n in (1, 2, 3, 4)]
        while self.answered < self.requests:
            await asyncio.sleep(0.005)
            self.world.redeploy(self.random.randrange(0, len(self.world.current), 4))
            self.redeployed += 1
            if kills and self.asked >= kills[0]:
                kills.pop(0)
                self.killed += 1
                dead, flying = self.host, list(self.flying)
                self._start()
                for task in flying:
                    task.cancel()
                del dead


def _met(stay: Stay, since: int) -> bool:
    """Whether an adapter was in its slot at any time since."""
    return stay.until is None or stay.until >= since


def again(base: Base) -> Base:
    """The base as it is loaded, without what was stacked over it."""
    from transformers import BertModel

    model: nn.Module = BertModel.from_pretrained(base.tokenizer.name_or_path)
    return Base(base.id, base.revision, model.eval().to(device()), base.tokenizer)
