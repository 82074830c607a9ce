"""Settlements in batches: an answer leaves only after its usage event is on disk."""

import asyncio
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from tilth.core.clock import now
from tilth.gateway.batches import Batches
from tilth.gateway.database import lost
from tilth.gateway.link import Link
from tilth.gateway.wire import TENANT, Call, Prepared, array, in_tenant, text, texts
from tilth.usage import statements

SETTLE = Prepared.of(statements.SETTLE)
SOURCE = b"gateway"
PATIENCE_S = 15.0
"""How long a settlement is tried again while the database is away; telling an event again counts nothing twice."""
PAUSE_S = 0.2


@dataclass(frozen=True)
class Settlement:
    """A prediction that was made: what it used, and the hold that covered it."""

    id: UUID
    """Of the request; event id, too."""
    tenant: UUID
    hold: UUID
    key: UUID | None
    price: UUID
    quantity: int
    subject: str
    data: dict[str, Any]
    at: datetime = field(default_factory=now)


class Settlements:
    """All settlements of this process go over one connection, whose commits reach the disk before they return."""

    def __init__(self, url: str) -> None:
        self._link = Link(url, [TENANT, SETTLE], synchronous_commit=True)
        self._batches: Batches[Settlement, None] = Batches(self._flush)

    async def record(self, settlement: Settlement) -> None:
        """Returns when it is on disk; raises when the database stays away."""
        await self._batches.ask(settlement)

    async def close(self) -> None:
        """After what is under way."""
        await self._batches.idle()
        await self._link.close()

    async def _flush(self, settlements: list[Settlement]) -> list[Exception | None]:
        tenants: dict[UUID, list[Settlement]] = {}
        for settlement in settlements:
            tenants.setdefault(settlement.tenant, []).append(settlement)
        try:
            await self._patiently([part for own in tenants.values() for part in _told(own)])
        except Exception as error:
            if lost(error) or len(tenants) == 1:
                raise
            return await self._one_tenant_each(settlements, tenants)
        return [None] * len(settlements)

    async def _patiently(self, calls: list[Call]) -> None:
        """Whether the first try was committed need not be known: the event's id decides."""
        ends = time.monotonic() + PATIENCE_S
        while True:
            try:
                await self._link.together(calls)
            except Exception as error:
                if not lost(error) or time.monotonic() > ends:
                    raise
                await asyncio.sleep(PAUSE_S)
            else:
                return

    async def _one_tenant_each(
        self, settlements: list[Settlement], tenants: dict[UUID, list[Settlement]]
    ) -> list[Exception | None]:
        """A statement that the database refuses spoils nobody else's."""
        results: dict[UUID, Exception | None] = {}
        for tenant, own in tenants.items():
            try:
                await self._patiently(_told(own))
                results[tenant] = None
            except Exception as error:
                results[tenant] = error
        return [results[settlement.tenant] for settlement in settlements]


def _told(own: list[Settlement]) -> list[Call]:
    tenant = own[0].tenant
    facts = {
        "tenant": text(tenant), "at": text(now()), "source": SOURCE,
        "ids": array([one.id for one in own]), "event_ids": array([one.id.hex for one in own]),
        "prices": array([one.price for one in own]), "quantities": array([one.quantity for one in own]),
        "subjects": texts([one.subject for one in own]), "keys": array([one.key for one in own]),
        "times": array([one.at for one in own]), "holds": array([one.hold for one in own]),
        "data": texts([orjson.dumps(one.data).decode() for one in own]),
    }  # fmt: skip
    return [in_tenant(tenant), (SETTLE, facts)]
