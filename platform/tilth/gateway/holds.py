"""Holds in batches: placed before a request is forwarded, given back if nothing came of it."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from uuid import UUID

from psycopg import pq

from tilth.core.clock import now
from tilth.core.errors import PaymentRequired
from tilth.gateway.batches import Batches
from tilth.gateway.database import ANSWER_S, LOST
from tilth.gateway.link import Link
from tilth.gateway.wire import TENANT, Call, Prepared, Values, Wire, array, in_tenant, text
from tilth.usage import statements
from tilth.usage.budgets import Room, month_of

LIFE = timedelta(minutes=3)
"""Longer than any request; then the sweep gives it back."""
PURPOSE = b"prediction"
LOOK_S = 0.1
"""How often a gateway that has holds under way looks whether its connection still stands."""
SETTLING_S = 0.5
"""After PostgreSQL came up again: by then every gateway has put back what it forgot, and there is true room to give."""
BUDGETS = 10_000
"""Rows that are remembered as made; which of them is asked for again costs a query, nothing else."""

HOLD, HOLD_CAPPED = Prepared.of(statements.HOLD), Prepared.of(statements.HOLD_CAPPED)
HOLD_AGAIN, RELEASE = Prepared.of(statements.HOLD_AGAIN), Prepared.of(statements.RELEASE)
ROOM = Prepared.of(
    f"""SELECT key IS NOT NULL, limit_micro_usd, spent_micro_usd, held_micro_usd FROM usage_budget
    WHERE tenant_id = %(tenant)s AND month = %(month)s AND (key IS NULL OR key = ({statements.FIRST_KEY}))"""  # noqa: S608
)
PREPARED = (TENANT, HOLD, HOLD_CAPPED, HOLD_AGAIN, RELEASE, ROOM)


@dataclass(frozen=True)
class Place:
    """A hold that is asked for."""

    id: UUID
    """The request's."""
    tenant: UUID
    amount_micro_usd: int
    key: UUID | None = None
    """Of a key with a cap."""
    cap_micro_usd: int | None = None


@dataclass(frozen=True)
class Back:
    """A hold that is not needed after all."""

    tenant: UUID
    id: UUID


Wish = Place | Back


class Ensure:
    """Makes the row of a month's budget through Django, in a thread, once for each (tenant, month, key)."""

    def __init__(self) -> None:
        self._made: set[tuple[UUID, date, UUID | None]] = set()

    async def __call__(self, tenant: UUID, month: date, key: UUID | None, cap_micro_usd: int | None) -> None:
        """Nothing happens the second time."""
        if (tenant, month, key) not in self._made:
            async with asyncio.timeout(ANSWER_S):
                await asyncio.to_thread(_ensure_budgets, tenant, month, key, cap_micro_usd)
            if len(self._made) >= BUDGETS:
                self._made.clear()
            self._made.add((tenant, month, key))


def _ensure_budgets(tenant: UUID, month: date, key: UUID | None, cap_micro_usd: int | None) -> None:
    from django.db import connection

    from tilth.usage.budgets import budget_ensure

    try:
        budget_ensure(tenant=tenant, month=month)
        if key is not None:
            budget_ensure(tenant=tenant, month=month, key=key, cap_micro_usd=cap_micro_usd)
    finally:
        connection.close()


class Holds:
    """All holds of this process go over one connection. Their commits are not waited for on disk.

    If PostgreSQL dies it may forget the newest ones: those still under way here are put back as soon as it is up again,
    before anybody is given new room. Of a hold whose answer was lost nobody knows whether it stands: it is given back.
    """

    def __init__(self, url: str, ensure: Ensure) -> None:
        self._link = Link(url, PREPARED, synchronous_commit=False, opened=self._opened)
        self._ensure = ensure
        self._batches: Batches[Wish, None] = Batches(self._flush)
        self._standing: dict[UUID, Place] = {}
        self._owed: dict[UUID, Back] = {}
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Looks after the holds from now on; call it in the event loop that serves."""
        self._watching = asyncio.create_task(self._watch())

    async def place(self, wish: Place) -> None:
        """Raises PaymentRequired with limit_source when there is no room."""
        try:
            await self._batches.ask(wish)
        except PaymentRequired:
            raise
        except BaseException:
            self._owed[wish.id] = Back(wish.tenant, wish.id)
            raise
        self._standing[wish.id] = wish

    async def give_back(self, placed: Place) -> None:
        """At once, or as soon as the database is there again."""
        self._standing.pop(placed.id, None)
        self._owed[placed.id] = back = Back(placed.tenant, placed.id)
        with suppress(*LOST):
            await self._repay([back])

    def settled(self, placed: Place) -> None:
        """The fold gives it back; if it could not be settled, the sweep."""
        self._standing.pop(placed.id, None)

    async def close(self) -> None:
        """After what is under way."""
        if self._watching is not None:
            self._watching.cancel()
        await self._batches.idle()
        await self._link.close()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            if self._standing or self._owed:
                with suppress(*LOST):  # the next look tries again
                    await self._link.look()
                    await self._repay(list(self._owed.values()))

    async def _repay(self, backs: Sequence[Back]) -> None:
        await asyncio.gather(*map(self._batches.ask, backs))
        for back in backs:
            self._owed.pop(back.id, None)

    async def _flush(self, wishes: list[Wish]) -> list[Exception | None]:
        """One transaction; tenants in one order in all processes, so that none waits for another in a circle."""
        results: dict[UUID, Exception | None] = {wish.id: None for wish in wishes}
        asked: list[Call] = []
        placed: list[tuple[int, list[Place]]] = []
        for tenant, own in by_tenant(wishes):
            asked.append(in_tenant(tenant))
            if backs := [wish.id for wish in own if isinstance(wish, Back)]:
                asked.append((RELEASE, {"tenant": text(tenant), "ids": array(backs)}))
            for group in by_key(own):
                placed.append((len(asked), group))
                asked.append(_hold(group))
        answers = await self._link.together(asked)
        for index, group in placed:
            if not answers[index].ntuples:
                results.update(await self._one_by_one(group))
        return [results[wish.id] for wish in wishes]

    async def _one_by_one(self, group: list[Place]) -> dict[UUID, Exception | None]:
        """Together they do not fit, or the month has no budget yet."""
        first, month = group[0], month_of(now())
        await self._ensure(first.tenant, month, first.key, first.cap_micro_usd)
        alone = [_hold([place]) for place in group]
        _, *answers = await self._link.together([in_tenant(first.tenant), *alone])
        refused = {place.id for place, answer in zip(group, answers, strict=True) if not answer.ntuples}
        if not refused:
            return {}
        facts = {"tenant": text(first.tenant), "month": text(month), "key": text(first.key)}
        _, rooms = await self._link.together([in_tenant(first.tenant), (ROOM, facts)])
        return {place.id: _refusal(place, rooms) for place in group if place.id in refused}

    async def _opened(self, wire: Wire, restarted: bool) -> None:
        if not restarted:
            return
        for tenant, own in by_tenant(self._standing.values()):
            again = [(HOLD_AGAIN, _facts(group)) for group in by_key(own)]
            await wire.together([in_tenant(tenant), *again])
        await asyncio.sleep(SETTLING_S)


def by_tenant(wishes: Iterable[Wish]) -> list[tuple[UUID, list[Wish]]]:
    """Wishes of each tenant, by the tenants' ids."""
    found: dict[UUID, list[Wish]] = {}
    for wish in wishes:
        found.setdefault(wish.tenant, []).append(wish)
    return sorted(found.items())


def by_key(wishes: Iterable[Wish]) -> list[list[Place]]:
    """The holds that are asked for, those of each capped key by themselves."""
    found: dict[UUID | None, list[Place]] = {}
    for wish in wishes:
        if isinstance(wish, Place):
            found.setdefault(wish.key, []).append(wish)
    return list(found.values())


def _hold(group: list[Place]) -> Call:
    return (HOLD if group[0].key is None else HOLD_CAPPED, _facts(group))


def _facts(group: list[Place]) -> Values:
    at = now()
    return {
        "tenant": text(group[0].tenant), "month": text(month_of(at)), "key": text(group[0].key), "purpose": PURPOSE,
        "at": text(at), "expires_at": text(at + LIFE), "total": text(sum(place.amount_micro_usd for place in group)),
        "ids": array([place.id for place in group]), "amounts": array([place.amount_micro_usd for place in group]),
    }  # fmt: skip


def _refusal(place: Place, rooms: pq.abc.PGresult) -> PaymentRequired:
    """By the budget that has less left; where there is none, as of a tenant that was just erased, nothing is left."""
    found = [_room(rooms, row) for row in range(rooms.ntuples)] or [Room(False, 0, 0, 0)]
    scarce = min(found, key=lambda room: room.left_micro_usd)
    return scarce.refusal(place.amount_micro_usd)


def _room(rooms: pq.abc.PGresult, row: int) -> Room:
    of_key, *figures = [rooms.get_value(row, column) or b"0" for column in range(rooms.nfields)]
    limit, spent, held = map(int, figures)
    return Room(of_key == b"t", limit, spent, held)
