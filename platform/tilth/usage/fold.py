"""The fold: what is pending becomes spent, owed and free again, for each tenant in one transaction."""

from collections import Counter
from datetime import date, datetime
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import F

from tilth.core.clock import now
from tilth.core.crash import crash_point
from tilth.core.ids import uuid7
from tilth.core.money import Price as Rate
from tilth.core.scope import in_tenant
from tilth.tenants.services import keys_used
from tilth.usage import statements
from tilth.usage.budgets import budget_ensure, key_budget
from tilth.usage.models import Budget, Hold, LedgerEntry, PendingFold, Price

BATCH = 5000
CRASH_POINTS = ("fold.taken", "fold.tallied", "fold.released", "fold.spent", "fold.committed", "sweep.released")


def fold_once() -> int:
    """Folds whatever is pending of every tenant; returns how many entries. Safe beside another fold."""
    waiting = PendingFold.unscoped.using("system").values_list("tenant_id", flat=True).distinct()
    return sum(_fold_all(tenant) for tenant in list(waiting))


def sweep_holds() -> int:
    """Gives back holds that nobody came back for; what is used under them later counts all the same."""
    stale = Hold.unscoped.using("system").filter(expires_at__lt=now())
    tenants = list(stale.values_list("tenant_id", flat=True).distinct())
    return sum(tenant_sweep(tenant=tenant) for tenant in tenants)


def _fold_all(tenant: UUID) -> int:
    total = 0
    while folded := tenant_fold(tenant=tenant):
        total += folded
        crash_point("fold.committed")
        if folded < BATCH:
            break
    return total


@in_tenant
def tenant_fold(*, tenant: UUID) -> int:
    """One batch of a tenant. Budgets are locked last, so a gateway's holds wait for two statements at most."""
    groups, holds, used, count = _take(tenant)
    crash_point("fold.taken")
    keys_used(tenant=tenant, at=used)
    spent: Counter[UUID] = Counter()
    for (month, price, key), quantity in sorted(groups.items(), key=str):
        _count(tenant, month, price, key, quantity, spent)
    crash_point("fold.tallied")
    _release(tenant, holds)
    crash_point("fold.released")
    for budget in sorted(spent):
        Budget.objects.filter(id=budget).update(spent_micro_usd=F("spent_micro_usd") + spent[budget])
    crash_point("fold.spent")
    return count


@in_tenant
def tenant_sweep(*, tenant: UUID) -> int:
    """One tenant's expired holds, save those that a pending entry is about to give back."""
    settled = PendingFold.objects.filter(hold__isnull=False).values("hold")
    stale = Hold.objects.filter(expires_at__lt=now()).exclude(id__in=settled)
    ids = list(stale.values_list("id", flat=True))
    _release(tenant, ids)
    crash_point("sweep.released")
    return len(ids)


def _take(tenant: UUID) -> tuple[Counter[tuple[date, UUID, UUID | None]], list[UUID], dict[UUID, datetime], int]:
    """Quantities, holds to give back, when each key was used last, and how many entries these were."""
    groups: Counter[tuple[date, UUID, UUID | None]] = Counter()
    holds: list[UUID] = []
    used: dict[UUID, datetime] = {}
    count = 0
    with connection.cursor() as cursor:
        cursor.execute(statements.TAKE, {"tenant": tenant, "limit": BATCH})
        for month, price, key, quantity, given_back, rows, last in cursor.fetchall():
            holds += given_back
            count += rows
            if price is not None:
                groups[month, price, key] += quantity
            if key is not None:
                used[key] = max(last, used.get(key, last))
    return groups, holds, used, count


def _count(tenant: UUID, month: date, price_id: UUID, key: UUID | None, quantity: int, spent: Counter[UUID]) -> None:
    """Into the organisation's budget, which the ledger follows, and into the key's if it has a cap."""
    price = Price.objects.get(id=price_id)
    whole = budget_ensure(tenant=tenant, month=month)
    amount = _tally(tenant, whole, price, quantity)
    spent[whole.id] += amount
    if amount:
        _post(month, price, amount)
    part = key_budget(tenant=tenant, month=month, key=key) if key else None
    if part is not None:
        spent[part.id] += _tally(tenant, part, price, quantity)


def _tally(tenant: UUID, budget: Budget, price: Price, quantity: int) -> int:
    """Adds to the month's quantity; returns the whole micro-USD by which its cost grew: the remainder stays in it."""
    facts: dict[str, Any] = {
        "id": uuid7(), "tenant": tenant, "at": now(), "budget": budget.id, "price": price.id, "quantity": quantity,
    }  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(statements.TALLY, facts)
        total = int(cursor.fetchone()[0])
    rate = Rate(price.micro_usd, price.per_quantity)
    return rate.floor(total) - rate.floor(total - quantity)


def _post(month: date, price: Price, amount: int) -> None:
    """Double entry: the customer owes it, the unit has earned it."""
    posting = uuid7()
    lines = {"customer": amount, f"revenue:{price.unit}": -amount}
    LedgerEntry.objects.bulk_create(
        LedgerEntry(posting=posting, account=account, amount_micro_usd=value, price=price, month=month)
        for account, value in lines.items()
    )


def _release(tenant: UUID, holds: list[UUID]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statements.RELEASE, {"tenant": tenant, "ids": holds})
