"""The small host: a Serve deployment that answers by whole small models, many in one process."""

import asyncio

from ray import serve

from inference.actors.served import SERVED
from inference.exchange import Incoming, Mailbox, Outgoing
from inference.settings import Settings


@serve.deployment(max_ongoing_requests=1024, **SERVED)
class SmallHost:
    """In a process of its own: only there are the libraries of learning imported."""

    def __init__(self, settings: Settings) -> None:
        from inference.wholes.answering import Answering

        self._mailbox = Mailbox(Answering(settings))

    async def exchange(self, call: Outgoing) -> Incoming:
        """Takes predictions and loads of many callers; gives what is done."""
        return await self._mailbox.exchange(call)

    async def stay(self, seconds: float) -> None:
        """Answers after so long: whoever waits for it hears at once that the process has died."""
        await asyncio.sleep(seconds)
