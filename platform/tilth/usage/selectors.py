"""Reads of usage: lines by day, single events, the month's quantities, the budget, balances of the ledger."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import Count, QuerySet, Sum
from django.db.models.functions import TruncDay

from tilth.core.clock import now
from tilth.core.money import Price as Rate
from tilth.core.pages import page
from tilth.core.scope import in_tenant
from tilth.usage.budgets import DEFAULT_LIMIT_MICRO_USD, month_of
from tilth.usage.models import Budget, LedgerEntry, Price, UsageEvent

# Folded and not yet folded in one statement, so that an event on its way is seen exactly once.
QUANTITIES = """SELECT price, sum(quantity)::bigint FROM (
    SELECT tally.price_id AS price, tally.quantity FROM usage_tally tally
    JOIN usage_budget budget ON budget.tenant_id = tally.tenant_id AND budget.id = tally.budget_id
    WHERE tally.tenant_id = %(tenant)s AND budget.month = %(month)s AND budget.key IS NULL
    UNION ALL
    SELECT event.price_id, event.quantity FROM usage_pendingfold pending
    JOIN usage_usageevent event ON event.tenant_id = pending.tenant_id AND event.id = pending.event
    WHERE pending.tenant_id = %(tenant)s AND event.occurred_at >= %(month)s::timestamp AT TIME ZONE 'UTC'
      AND event.occurred_at < (%(month)s::timestamp + interval '1 month') AT TIME ZONE 'UTC') AS each
GROUP BY price"""


@dataclass(frozen=True)
class UsageLine:
    """One day's use of one thing at one price."""

    day: date
    subject: str
    unit: str
    title: str
    quantity: int
    events: int
    cost_micro_usd: int
    """Whole micro-USD of this line; the invoice rounds over the month instead."""


@in_tenant
def usage_lines(*, tenant: UUID, first: date, last: date) -> list[UsageLine]:
    """Days from first to last, UTC, newest first; by model or job, and unit."""
    rows = (
        UsageEvent.objects.filter(
            occurred_at__gte=_midnight(first), occurred_at__lt=_midnight(last + timedelta(days=1))
        )
        .annotate(day=TruncDay("occurred_at"))
        .values("day", "subject", "price")
        .annotate(quantity=Sum("quantity"), events=Count("id"))
        .order_by("-day", "subject", "price")
    )
    prices = Price.objects.in_bulk({row["price"] for row in rows})
    return [_line(prices[row["price"]], row) for row in rows]


@in_tenant
def event_page(*, tenant: UUID, after: UUID | None, limit: int) -> tuple[list[UsageEvent], bool]:
    """Single events, newest first, with their prices, and whether there are more."""
    events: QuerySet[UsageEvent] = UsageEvent.objects.select_related("price")
    return page(events, after=after, limit=limit, kind="usage")


@in_tenant
def month_quantities(*, tenant: UUID, month: date) -> list[tuple[Price, int]]:
    """What the month has used at each price, up to this moment."""
    with connection.cursor() as cursor:
        cursor.execute(QUANTITIES, {"tenant": tenant, "month": month})
        found = dict(cursor.fetchall())
    return [(price, found[price.id]) for price in Price.objects.filter(id__in=found).order_by("unit", "effective_from")]


@in_tenant
def budget_get(*, tenant: UUID) -> Budget:
    """This month's budget; before its first use, as it will be made then."""
    month = month_of(now())
    newest: Budget | None = Budget.objects.filter(key=None, month__lte=month).order_by("-month").first()
    if newest is not None and newest.month == month:
        return newest
    limit = newest.limit_micro_usd if newest else DEFAULT_LIMIT_MICRO_USD
    return Budget(month=month, limit_micro_usd=limit, held_micro_usd=newest.held_micro_usd if newest else 0)


@in_tenant
def ledger_balances(*, tenant: UUID) -> list[tuple[date, str, int]]:
    """(month, account, micro-USD), newest month first; the amounts of each month sum to zero."""
    sums = LedgerEntry.objects.values("month", "account").annotate(balance=Sum("amount_micro_usd"))
    return [(row["month"], row["account"], row["balance"]) for row in sums.order_by("-month", "account")]


def _line(price: Price, row: Mapping[str, Any]) -> UsageLine:
    rate = Rate(price.micro_usd, price.per_quantity)
    return UsageLine(
        day=row["day"].date(), subject=row["subject"], unit=price.unit, title=price.title, quantity=row["quantity"],
        events=row["events"], cost_micro_usd=rate.floor(row["quantity"]),
    )  # fmt: skip


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
