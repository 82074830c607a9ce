"""What customers ask of models: rows to predict, texts to embed. Each knows its price's unit, its way, its answer."""

import base64
import struct
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import orjson

from tilth.contract.messages import EmbedReply, PredictionUsage, PredictReply
from tilth.contract.registry import vertical
from tilth.gateway.bodies import Ask, Embed
from tilth.gateway.lookups import Lookups, Target
from tilth.gateway.upstream import Upstream


@dataclass(frozen=True)
class Answer:
    """The JSON of an answer, with what must be checked before it is shown."""

    body: bytes
    digest: str
    usage: PredictionUsage


class Question(Protocol):
    """One request, parsed."""

    model: str
    kind: str
    rows: int

    async def target(self, lookups: Lookups, tenant: UUID) -> Target:
        """What must answer; raises NotFound."""

    def unit(self, target: Target) -> str:
        """Of the price list: what is counted."""

    async def ask(self, upstream: Upstream, flow: str, target: Target) -> Answer:
        """The data plane's answer; raises Invalid, DataPlaneDown."""


class Prediction:
    """``POST /v1/predictions``."""

    kind = "prediction"

    def __init__(self, body: Ask) -> None:
        self.model, self._inputs, self.rows = body.model, body.inputs, len(body.inputs)

    async def target(self, lookups: Lookups, tenant: UUID) -> Target:
        """A deployed model."""
        return await lookups.model(tenant, self.model)

    def unit(self, target: Target) -> str:
        """As the model's vertical counts: tokens read, or rows."""
        return vertical(target.vertical).prediction_unit

    async def ask(self, upstream: Upstream, flow: str, target: Target) -> Answer:
        """All rows at once."""
        reply = await upstream.predict(flow, target, self._inputs)
        data = [prediction.model_dump(exclude_none=True) for prediction in reply.predictions]
        usage = {"rows": reply.usage.rows, "tokens": reply.usage.tokens}
        return _answer(self.model, reply, data, usage)


class Embedding:
    """``POST /v1/embeddings``, in OpenAI's words."""

    kind = "embedding"

    def __init__(self, body: Embed) -> None:
        self.model = body.model
        self._texts = [body.input] if isinstance(body.input, str) else body.input
        self._plain = body.encoding_format == "float"
        self.rows = len(self._texts)

    async def target(self, lookups: Lookups, tenant: UUID) -> Target:
        """A base model on offer, or the encoder of a deployed model."""
        return await lookups.encoder(tenant, self.model)

    def unit(self, target: Target) -> str:
        """Tokens, whatever the encoder."""
        return "embedding.tokens"

    async def ask(self, upstream: Upstream, flow: str, target: Target) -> Answer:
        """Vectors in the texts' order, as base64 (the SDK's own wish) or as numbers."""
        reply = await upstream.embed(flow, target, self._texts)
        vectors = map(_numbers, reply.vectors) if self._plain else reply.vectors
        data = [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(vectors)]
        usage = {"prompt_tokens": reply.usage.tokens, "total_tokens": reply.usage.tokens}
        return _answer(self.model, reply, data, usage)


def _answer(model: str, reply: PredictReply | EmbedReply, data: list[Any], usage: dict[str, int]) -> Answer:
    shown = {"object": "list", "data": data, "model": model, "digest": reply.digest, "usage": usage}
    return Answer(orjson.dumps(shown), reply.digest, reply.usage)


def _numbers(packed: str) -> tuple[float, ...]:
    raw = base64.b64decode(packed)
    return struct.unpack(f"<{len(raw) // 4}f", raw)
