"""The way of a question to a model: key, hold, forward, check the digest, settle, answer."""

import asyncio
import hashlib
import logging
from functools import lru_cache
from uuid import UUID

from tilth.contract.vertical import counts_rows
from tilth.core.errors import Unavailable
from tilth.dataplane.flow import flow_of
from tilth.gateway.auth import Caller
from tilth.gateway.holds import Holds, Place
from tilth.gateway.lookups import ListPrice, Lookups, Target
from tilth.gateway.questions import Answer, Question
from tilth.gateway.replies import Replies
from tilth.gateway.settlements import Settlement, Settlements
from tilth.gateway.upstream import Upstream

SPECIALS = 2
"""Tokens that frame a row."""
FLOWS = 2_000
PATIENCE_S = 40.0
"""At shutdown; longer than any request."""

log = logging.getLogger(__name__)


class Predictions:
    """The way of one request; once it is forwarded it is followed to its end, whether the client stays or not."""

    def __init__(self, lookups: Lookups, holds: Holds, settlements: Settlements, upstream: Upstream) -> None:
        self._lookups = lookups
        self._holds = holds
        self._settlements = settlements
        self._upstream = upstream
        self._replies = Replies()
        self._flow = lru_cache(FLOWS)(flow_of)
        self._under_way: set[asyncio.Task[bytes]] = set()

    async def answer(
        self, caller: Caller, question: Question, body: bytes, request: UUID, *, retried: bool, key: bytes = b""
    ) -> bytes:
        """The JSON of the answer; a retry of a request that was answered, or is being answered, gets that answer.

        ``key`` is its Idempotency-Key: with one, every request that carries it is a retry.
        """
        target = await question.target(self._lookups, caller.principal.tenant)
        said = hashlib.sha256(body).digest()
        of = b"key" if key else f"{question.kind} {target.digest}".encode()
        fingerprint = _fingerprint(caller, of, key or said)
        first = self._replies.find(fingerprint, said) if retried or key else None
        if first is not None:
            return first if isinstance(first, bytes) else await asyncio.shield(first)
        task = asyncio.create_task(self._work(caller, question, target, len(body), request))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        self._replies.keep(fingerprint, said, task)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Waits for what is under way, also for clients that have left."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=PATIENCE_S)

    async def _work(self, caller: Caller, question: Question, target: Target, size: int, request: UUID) -> bytes:
        unit = question.unit(target)
        price = await self._lookups.price(unit)
        most = most_tokens(size, question.rows)
        place = _hold(caller, price, question.rows if counts_rows(unit) else most, request)
        await self._holds.place(place)
        try:
            reply = await question.ask(self._upstream, self._flow(caller.principal.tenant), target)
            _check_digest(reply, target, request)
            _check_usage(reply, question.rows, most, request)
        except BaseException:
            await self._holds.give_back(place)
            raise
        try:
            used = reply.usage.rows if counts_rows(unit) else reply.usage.tokens
            await self._settlements.record(_settlement(caller, question, price, place, reply, used, request))
        finally:
            self._holds.settled(place)
        return reply.body


def most_tokens(size: int, rows: int) -> int:
    """No tokenizer makes more tokens of a body than it has bytes, but for those that frame each row."""
    return size + SPECIALS * rows


def _fingerprint(caller: Caller, *what: bytes) -> bytes:
    return hashlib.sha256(b"\0".join((caller.principal.actor.encode(), *what))).digest()


def _hold(caller: Caller, price: ListPrice, most: int, request: UUID) -> Place:
    capped = caller.cap_micro_usd is not None
    return Place(
        tenant=caller.principal.tenant,
        amount_micro_usd=price.rate.ceil(most),
        key=caller.principal.key if capped else None,
        cap_micro_usd=caller.cap_micro_usd,
        id=request,
    )


def _check_digest(reply: Answer, target: Target, request: UUID) -> None:
    """A wrong model's answer is never shown and never billed; somebody must look."""
    if reply.digest != target.digest:
        log.critical("ALARM: request %s asked for %s and %s answered", request.hex, target.digest, reply.digest)
        raise Unavailable("Another model than yours answered; its answer was thrown away.", code="digest_mismatch")


def _check_usage(reply: Answer, rows: int, most: int, request: UUID) -> None:
    """More than was held for would overrun a budget; no tokenizer counts so much."""
    if reply.usage.rows != rows or reply.usage.tokens > most:
        log.error("request %s of %s rows and at most %s tokens was told as %s", request.hex, rows, most, reply.usage)
        raise Unavailable("The models miscounted; nothing is billed. Try again.", code="data_plane_down")


def _settlement(
    caller: Caller, question: Question, price: ListPrice, place: Place, reply: Answer, used: int, request: UUID
) -> Settlement:
    return Settlement(
        id=request, tenant=place.tenant, hold=place.id, key=caller.principal.key, price=price.id,
        quantity=used, subject=question.model, data={"rows": reply.usage.rows, "digest": reply.digest},
    )  # fmt: skip
