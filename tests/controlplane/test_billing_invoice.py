"""Invoices: exact integers, one rounding per line, and what is still on its way is in them."""

from datetime import UTC, date, datetime
from fractions import Fraction
from typing import Any
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st
from tilth.billing.pricing import Used, invoice
from tilth.core.clock import frozen, now
from tilth.core.money import Price as Rate
from tilth.usage import services
from tilth.usage.fold import fold_once
from tilth.usage.models import Price

USED = st.builds(
    Used,
    unit=st.sampled_from(["a", "b"]),
    title=st.just("A title"),
    price=st.builds(Rate, micro_usd=st.integers(0, 10**7), per_quantity=st.integers(1, 10**6)),
    quantity=st.integers(0, 10**12),
)


@given(st.lists(USED, max_size=6))
def test_each_line_is_its_exact_cost_rounded_half_up_once(used: list[Used]) -> None:
    made = invoice(date(2026, 11, 1), used)
    exact = [Fraction(one.quantity * one.price.micro_usd, one.price.per_quantity * 10_000) for one in used]
    expected = sorted(int(cost + Fraction(1, 2)) for cost, one in zip(exact, used, strict=True) if one.quantity)
    assert sorted(line.amount_cents for line in made.lines) == expected
    assert made.total_cents == sum(expected)


@given(USED, st.integers(1, 50))
def test_many_small_uses_cost_what_one_large_one_costs(used: Used, parts: int) -> None:
    whole = Used(used.unit, used.title, used.price, used.quantity * parts)
    exact = Fraction(whole.quantity * whole.price.micro_usd, whole.price.per_quantity * 10_000)
    assert abs(invoice(date(2026, 11, 1), [whole]).total_cents - exact) <= Fraction(1, 2)


def a_price(micro_usd: int, per_quantity: int) -> Price:
    return Price.objects.create(
        unit=f"unit.{uuid4().hex[:8]}", title="A unit", micro_usd=micro_usd, per_quantity=per_quantity
    )


def use(tenant: Any, price: Price, quantity: int, at: datetime | None = None) -> None:
    services.event_record(
        tenant=tenant.id, source="test", event_id=uuid4().hex, price=price.id, quantity=quantity, subject="ft:x",
        occurred_at=at or now(),
    )  # fmt: skip


def test_the_preview_holds_what_is_folded_and_what_is_not_yet(tenant: Any) -> None:
    price = a_price(20, 1000)
    for _ in range(3):
        use(tenant, price, 1_000_000)
        fold_once()
        use(tenant, price, 500_001)
    found = tenant.client.get("/api/invoice").json()
    assert found["total_cents"] == 9, "4,500,003 units at 20 micro-USD per 1,000 are 90,000.06 micro-USD"
    assert found["lines"] == [
        {
            "unit": price.unit,
            "title": "A unit",
            "quantity": 4_500_003,
            "micro_usd": 20,
            "per_quantity": 1000,
            "amount_cents": 9,
            "amount": "$0.09",
        }
    ]


def test_a_month_ends_at_midnight_utc(tenant: Any) -> None:
    price = a_price(10_000, 1)
    for at in (datetime(2026, 10, 31, 23, 59, 59, 999_999, UTC), datetime(2026, 11, 1, tzinfo=UTC)):
        use(tenant, price, 1, at)
    totals = [tenant.client.get(f"/api/invoice?month=2026-{month}").json()["total_cents"] for month in (10, 11)]
    fold_once()
    assert totals == [1, 1]
    assert [tenant.client.get(f"/api/invoice?month=2026-{m}").json()["total_cents"] for m in (10, 11)] == [1, 1]


def test_usage_budget_and_ledger_are_shown(tenant: Any, other_tenant: Any) -> None:
    price = a_price(1, 3)
    with frozen(now()):
        for quantity in (0, 10, 20):
            use(tenant, price, quantity)
        fold_once()
    client = tenant.client
    (line,) = client.get("/api/usage").json()["data"]
    assert (line["quantity"], line["events"], line["cost_micro_usd"], line["subject"]) == (30, 3, 10, "ft:x")
    page = client.get("/api/usage/events?limit=2").json()
    assert ([e["quantity"] for e in page["data"]], page["has_more"]) == ([20, 10], True)
    rest = client.get(f"/api/usage/events?after={page['last_id']}").json()
    assert ([e["quantity"] for e in rest["data"]], rest["has_more"]) == ([0], False)
    assert other_tenant.client.get(f"/api/usage/events?after={page['last_id']}").status_code == 404
    assert client.get("/api/ledger").json()["data"] == [
        {"month": f"{now():%Y-%m}-01", "account": "customer", "balance_micro_usd": 10},
        {"month": f"{now():%Y-%m}-01", "account": f"revenue:{price.unit}", "balance_micro_usd": -10},
    ]
    assert client.get("/api/budget").json()["spent_micro_usd"] == 10
    assert other_tenant.client.get("/api/usage").json()["data"] == []


def test_the_limit_can_be_changed_and_the_change_is_audited(tenant: Any) -> None:
    assert tenant.client.get("/api/budget").json()["limit_micro_usd"] == 100_000_000
    changed = tenant.client.patch("/api/budget", {"limit_micro_usd": 5_000}, content_type="application/json")
    assert (changed.status_code, changed.json()["left_micro_usd"]) == (200, 5_000)
    wrong = tenant.client.patch("/api/budget", {"limit": 5}, content_type="application/json")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "limit")
    assert tenant.client.get("/api/audit").json()["data"][0]["action"] == "budget.change"
