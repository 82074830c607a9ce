"""The small host: a Serve deployment that answers by whole small models, many in one process."""

import asyncio

from ray import serve
from tilth.contract.messages import LoadReply, LoadRequest, PredictReply, PredictRequest

from inference.actors.served import SERVED
from inference.faults import Faulty
from inference.settings import Settings


@serve.deployment(max_ongoing_requests=1024, **SERVED)
class SmallHost:
    """In a process of its own: only there are the libraries of learning imported."""

    def __init__(self, settings: Settings) -> None:
        from inference.wholes.answering import Answering

        self._answering = Answering(settings)

    async def predict(self, request: PredictRequest) -> PredictReply | Faulty:
        """Answers rows by one model."""
        return await self._answering.predict(request)

    async def load(self, request: LoadRequest) -> LoadReply | Faulty:
        """Reads a model before anybody asks."""
        return await self._answering.load(request)

    async def stay(self, seconds: float) -> None:
        """Answers after so long: whoever waits for it hears at once that the process has died."""
        await asyncio.sleep(seconds)
