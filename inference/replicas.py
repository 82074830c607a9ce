"""Which replica of a host answers: the first in rank, by rendezvous hashing, of those that are there. No Ray in it."""

import asyncio
import logging
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

from tilth.contract.messages import Message

from inference.exchange import Forgot, Line
from inference.faults import fault

TRIES = 2
"""Replicas that one question is put to at most: one over which its host dies must not end every host."""
BEAT_S = 2.0
"""A replica is asked to stay for so long, again and again; whoever ends it in good order waits for the last one."""

log = logging.getLogger(__name__)


class ReplicaGone(Exception):
    """The replica died, or was given up, before it answered."""


def ranked(key: str, names: Iterable[str]) -> list[str]:
    """Names by falling weight of name and key: highest random weight (Thaler and Ravishankar 1998, section 3).

    Without one of them the others keep their order, so only its own keys move, each to the next in its rank.
    """
    return sorted(names, key=lambda name: blake2b(f"{name}\0{key}".encode(), digest_size=8).digest(), reverse=True)


class Replica:
    """Behind Ray's handle, or what has its methods' ``remote``; ``died`` is what that raises where the process has."""

    def __init__(self, name: str, handle: Any, died: tuple[type[Exception], ...] = ()) -> None:
        self.name = name
        self.here = True
        """As far as is known; one that has said nothing yet is believed in."""
        self._handle = handle
        self._line = Line(handle.exchange.remote, died)
        self._died: tuple[type[Exception], ...] = (*died, Forgot)
        self._loss: asyncio.Future[None] | None = None

    async def ask(self, method: str, message: Message) -> Any:
        """Its answer; raises ReplicaGone as soon as it is known to be lost, also where Serve would wait for another."""
        asked, loss = asyncio.ensure_future(self._line.ask(method, message)), self._next_loss()
        try:
            await asyncio.wait({asked, loss}, return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                raise ReplicaGone
            answer = asked.result()
        except self._died as error:
            if not loss.done():
                self._lose(error)
            raise ReplicaGone from error
        finally:
            asked.cancel()
        self.here = True
        return answer

    async def watch(self, patience_s: float) -> None:
        """Keeps ``here`` true, for ever: a death is seen at once, and what hangs is given up after ``patience_s``.

        Without it nobody would see the death of a replica that is asked for nothing, or that a lost one is back.
        """
        while True:
            try:
                async with asyncio.timeout(BEAT_S + patience_s if self.here else None):
                    await self._handle.stay.remote(BEAT_S if self.here else 0.0)
            except asyncio.CancelledError as cancelled:
                if (own := asyncio.current_task()) is None or own.cancelling():
                    raise
                await self._missed(cancelled)
            except Exception as error:  # whatever Serve or Ray says: it did not stay
                await self._missed(error)
            else:
                self.here = True

    async def _missed(self, why: BaseException) -> None:
        if self.here:
            self._lose(why)
        await asyncio.sleep(BEAT_S)

    def _next_loss(self) -> asyncio.Future[None]:
        """Done when it is lost the next time."""
        if self._loss is None:
            self._loss = asyncio.get_running_loop().create_future()
        return self._loss

    def _lose(self, why: BaseException) -> None:
        log.warning("replica %s is lost: %r", self.name, why)
        self.here = False
        if self._loss is not None:
            self._loss.set_result(None)
            self._loss = None


class Replicas:
    """The replicas of one host; each key lives in one of them."""

    def __init__(self, members: Iterable[Replica]) -> None:
        self._members = {member.name: member for member in members}
        self._watching: list[asyncio.Task[None]] = []

    async def ask(self, method: str, key: str, message: Message) -> Any:
        """The answer of the first in rank that is there; if it dies over the question, of the next, and then of none.

        Where none is there, the first in rank is waited for: Serve is starting it.
        """
        rank = [self._members[name] for name in ranked(key, self._members)]
        for member in [member for member in rank if member.here][:TRIES] or rank[:1]:
            try:
                return await member.ask(method, message)
            except ReplicaGone:
                continue
        return fault(503, "host_died", "the host died before it answered; try again in a moment")

    def watch(self, patience_s: float) -> None:
        """Looks after the members from now on; a single one needs no watch, since nobody could answer in its place."""
        if len(self._members) > 1 and not self._watching:
            self._watching = [asyncio.create_task(member.watch(patience_s)) for member in self._members.values()]
