"""The one way in which this process records usage: once per (tenant, source, event id)."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection

from tilth.core.clock import now
from tilth.core.errors import Invalid
from tilth.core.ids import uuid7
from tilth.core.scope import in_tenant
from tilth.usage import statements


@in_tenant
def event_record(
    *,
    tenant: UUID,
    source: str,
    event_id: str,
    price: UUID,
    quantity: int,
    subject: str,
    occurred_at: datetime,
    hold: UUID | None = None,
    key: UUID | None = None,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Records a use once, however often it is told; None as a quantity is refused, zero is recorded."""
    if isinstance(quantity, bool) or not isinstance(quantity, int) or quantity < 0:
        raise Invalid(f"Usage is a whole number that is not negative, found {quantity!r} for {source}:{event_id}.")
    facts: dict[str, Any] = {
        "tenant": tenant, "at": now(), "source": source, "ids": [uuid7()], "event_ids": [event_id], "prices": [price],
        "quantities": [quantity], "subjects": [subject], "keys": [key], "times": [occurred_at], "holds": [hold],
        "data": [json.dumps(data or {})],
    }  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(statements.SETTLE, facts)
