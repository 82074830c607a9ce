"""Writes of usage: holds, events, limits, device spans. Every one of them may be repeated without counting twice."""

from dataclasses import dataclass
from datetime import date, datetime
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
from tilth.usage.models import Budget, Hold, PendingFold
from tilth.usage.prices import price_at, price_current, prices_sync
from tilth.usage.spans import span_close, span_extend, span_open

__all__ = [
    "Capped",
    "budget_change",
    "budget_ended",
    "event_record",
    "hold_place",
    "hold_release",
    "price_at",
    "price_current",
    "prices_sync",
    "span_close",
    "span_extend",
    "span_open",
]


@dataclass(frozen=True)
class Capped:
    """A key with a cap of its own."""

    key: UUID
    cap_micro_usd: int


@in_tenant
def hold_place(
    *, tenant: UUID, purpose: str, amount_micro_usd: int, expires_at: datetime, capped: Capped | None = None
) -> UUID:
    """Keeps an amount of this month's budget, and of a capped key's; raises PaymentRequired when spent, held and it
    exceed the limit."""
    if amount_micro_usd < 0:
        raise Invalid(f"A hold cannot be negative, found {amount_micro_usd}.")
    hold, month = uuid7(), month_of(now())
    budgets = _budgets(tenant, month, capped)
    facts: dict[str, Any] = {
        "tenant": tenant, "month": month, "purpose": purpose, "at": now(), "expires_at": expires_at,
        "total": amount_micro_usd, "ids": [hold], "amounts": [amount_micro_usd], "key": capped.key if capped else None,
    }  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(statements.HOLD_CAPPED if capped else statements.HOLD, facts)
        if cursor.fetchone() is None:
            raise min(map(_room, budgets), key=lambda room: room.left_micro_usd).refusal(amount_micro_usd)
    return hold


@in_tenant
def budget_ended(*, tenant: UUID, amount_micro_usd: int, capped: Capped | None = None) -> bool:
    """Whether an amount is more than is left even if all that is held comes back unused."""
    budgets = _budgets(tenant, month_of(now()), capped)
    return any(each.spent_micro_usd + amount_micro_usd > each.limit_micro_usd for each in budgets)


@in_tenant
def hold_release(*, tenant: UUID, hold: UUID) -> None:
    """Gives a hold back with the next fold, together with the usage recorded before it: never a moment too early."""
    PendingFold.objects.create(hold=hold)


@in_tenant
def hold_renew(*, tenant: UUID, hold: UUID, expires_at: datetime) -> None:
    """Keeps it for longer, since whatever it is held for goes on."""
    Hold.objects.filter(id=hold).update(expires_at=expires_at)


@in_tenant
def budget_change(*, tenant: UUID, by: Principal, limit_micro_usd: int) -> Budget:
    """Another limit from this month on; below what is spent and held it stops new work, and ends nothing."""
    budget_ensure(tenant=tenant, month=month_of(now()))
    budget = Budget.objects.select_for_update().get(month=month_of(now()), key=None)
    former, budget.limit_micro_usd = budget.limit_micro_usd, limit_micro_usd
    budget.save(update_fields=["limit_micro_usd"])
    audit(by.actor, "budget.change", tenant.hex, former_micro_usd=former, limit_micro_usd=limit_micro_usd)
    return budget


def _budgets(tenant: UUID, month: date, capped: Capped | None) -> list[Budget]:
    """Of the organisation, and of the key if it has a cap."""
    whole = budget_ensure(tenant=tenant, month=month)
    if capped is None:
        return [whole]
    return [whole, budget_ensure(tenant=tenant, month=month, key=capped.key, cap_micro_usd=capped.cap_micro_usd)]


def _room(budget: Budget) -> Room:
    """As it is now."""
    budget.refresh_from_db()
    of_key = budget.key is not None
    return Room(of_key, budget.limit_micro_usd, budget.spent_micro_usd, budget.held_micro_usd)
