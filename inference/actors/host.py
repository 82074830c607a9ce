"""The host: a Serve deployment that keeps one base model and answers for many adapters."""

import asyncio

from ray import serve
from tilth.contract.messages import EmbedReply, EmbedRequest, LoadReply, LoadRequest, PredictReply, PredictRequest
from tilth.contract.vertical import BaseModelOffer

from inference.actors.served import SERVED
from inference.faults import Faulty
from inference.settings import Settings


@serve.deployment(max_ongoing_requests=1024, **SERVED)
class Host:
    """One base, many adapters, in a process of its own: only there is torch imported, since that takes seconds."""

    def __init__(self, offer: BaseModelOffer, settings: Settings) -> None:
        from inference.adapters.answering import Answering

        self._answering = Answering(offer, settings)

    async def predict(self, request: PredictRequest) -> PredictReply | Faulty:
        """Answers rows by one model."""
        return await self._answering.predict(request)

    async def embed(self, request: EmbedRequest) -> EmbedReply | Faulty:
        """Unit vectors of texts, by one model's encoder."""
        return await self._answering.embed(request)

    async def load(self, request: LoadRequest) -> LoadReply | Faulty:
        """Brings a model into a slot."""
        return await self._answering.load(request)

    async def stay(self, seconds: float) -> None:
        """Answers after so long: whoever waits for it hears at once that the process has died."""
        await asyncio.sleep(seconds)

    async def forwards(self) -> int:
        """Base forwards done so far."""
        return self._answering.service.model.forwards
