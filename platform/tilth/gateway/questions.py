"""What customers ask of models: rows to predict, texts to embed. Each knows its price's unit, its way, its answer."""

from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

import orjson

from tilth.contract.messages import PredictionUsage
from tilth.contract.registry import vertical
from tilth.gateway.answers import embedded, predicted
from tilth.gateway.asks import Ask, Embed
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
        shown = predicted(self.model, reply.digest, reply.predictions, reply.usage)
        return Answer(orjson.dumps(shown), reply.digest, reply.usage)


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
        shown = embedded(self.model, reply.digest, reply.vectors, reply.usage, plain=self._plain)
        return Answer(orjson.dumps(shown), reply.digest, reply.usage)
