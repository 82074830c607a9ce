"""The host: a Serve deployment that keeps one base model and answers for many adapters."""

import asyncio

from ray import serve
from tilth.contract.vertical import BaseModelOffer

from inference.actors.served import SERVED
from inference.exchange import Incoming, Mailbox, Outgoing
from inference.settings import Settings


@serve.deployment(max_ongoing_requests=1024, **SERVED)
class Host:
    """One base, many adapters, in a process of its own: only there is torch imported, since that takes seconds."""

    def __init__(self, offer: BaseModelOffer, settings: Settings) -> None:
        from inference.adapters.answering import Answering

        self._answering = Answering(offer, settings)
        self._mailbox = Mailbox(self._answering)

    async def exchange(self, call: Outgoing) -> Incoming:
        """Takes predictions, embeddings and loads of many callers; gives what is done."""
        return await self._mailbox.exchange(call)

    async def stay(self, seconds: float) -> None:
        """Answers after so long: whoever waits for it hears at once that the process has died."""
        await asyncio.sleep(seconds)

    async def forwards(self) -> int:
        """Base forwards done so far."""
        return self._answering.service.model.forwards
