"""Writes of usage: holds, events, limits, device spans. Every one of them may be repeated without counting twice."""

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection

from tilth.core.clock import now
from tilth.core.errors import Invalid
from tilth.core.ids import uuid7
from tilth.core.scope import in_tenant
from tilth.tenants.principal import Principal
from tilth.tenants.services import audit
from tilth.usage import statements
from tilth.usage.budgets import Room, budget_ensure, month_of
from tilth.usage.events import event_record
from tilth.usage.models import Budget, PendingFold
from tilth.usage.prices import price_current, prices_sync
from tilth.usage.spans import span_close, span_extend, span_open

__all__ = [
    "budget_change",
    "event_record",
    "hold_place",
    "hold_release",
    "price_current",
    "prices_sync",
    "span_close",
    "span_extend",
    "span_open",
]


@in_tenant
def hold_place(*, tenant: UUID, purpose: str, amount_micro_usd: int, expires_at: datetime) -> UUID:
    """Keeps an amount of this month's budget; raises PaymentRequired when spent, held and it exceed the limit."""
    if amount_micro_usd < 0:
        raise Invalid(f"A hold cannot be negative, found {amount_micro_usd}.")
    hold, month = uuid7(), month_of(now())
    budget = budget_ensure(tenant=tenant, month=month)
    facts: dict[str, Any] = {
        "tenant": tenant, "month": month, "purpose": purpose, "at": now(), "expires_at": expires_at,
        "total": amount_micro_usd, "ids": [hold], "amounts": [amount_micro_usd],
    }  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(statements.HOLD, facts)
        if cursor.fetchone() is None:
            budget.refresh_from_db()
            room = Room(False, budget.limit_micro_usd, budget.spent_micro_usd, budget.held_micro_usd)
            raise room.refusal(amount_micro_usd)
    return hold


@in_tenant
def hold_release(*, tenant: UUID, hold: UUID) -> None:
    """Gives a hold back with the next fold, together with the usage recorded before it: never a moment too early."""
    PendingFold.objects.create(hold=hold)


@in_tenant
def budget_change(*, tenant: UUID, by: Principal, limit_micro_usd: int) -> Budget:
    """Another limit from this month on; below what is spent and held it stops new work, and ends nothing."""
    budget_ensure(tenant=tenant, month=month_of(now()))
    budget = Budget.objects.select_for_update().get(month=month_of(now()), key=None)
    former, budget.limit_micro_usd = budget.limit_micro_usd, limit_micro_usd
    budget.save(update_fields=["limit_micro_usd"])
    audit(by.actor, "budget.change", tenant.hex, former_micro_usd=former, limit_micro_usd=limit_micro_usd)
    return budget
