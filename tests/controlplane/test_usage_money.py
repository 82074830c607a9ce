"""Holds, events, the fold, the ledger: sums are checked in SQL, crashes are real, promises are the database's."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from django.db import IntegrityError, ProgrammingError, connection, connections
from tilth.contract.vertical import BillableUnit
from tilth.core.clock import frozen, now
from tilth.core.errors import Invalid, PaymentRequired, Unavailable
from tilth.core.scope import tenant_scope
from tilth.usage import services
from tilth.usage.budgets import budget_ensure, month_of
from tilth.usage.fold import fold_once, sweep_holds, tenant_fold
from tilth.usage.models import Budget, LedgerEntry, Price, UsageEvent

SOON = timedelta(minutes=5)


@pytest.fixture
def price(database: Any) -> Price:
    """A third of a micro-dollar each: nothing comes out even."""
    return Price.objects.create(unit=f"test.{uuid4().hex[:8]}", title="Thirds", micro_usd=1, per_quantity=3)


def hold(tenant: Any, amount: int) -> UUID:
    return services.hold_place(tenant=tenant.id, purpose="test", amount_micro_usd=amount, expires_at=now() + SOON)


def use(tenant: Any, price: Price, quantity: int, event_id: str = "", **facts: Any) -> None:
    facts = {"occurred_at": now(), "subject": "ft:test", **facts}
    services.event_record(
        tenant=tenant.id, source="test", event_id=event_id or uuid4().hex, price=price.id, quantity=quantity, **facts
    )


def limit(tenant: Any, amount: int) -> None:
    services.budget_change(tenant=tenant.id, by=tenant.principal, limit_micro_usd=amount)


def budget(tenant: Any, key: UUID | None = None) -> tuple[int, int]:
    with tenant_scope(tenant.id):
        found = Budget.objects.get(month=month_of(now()), key=key)
        return found.held_micro_usd, found.spent_micro_usd


def assert_held_is_the_sum_of_holds(db: psycopg.Connection) -> None:
    wrong = db.execute(
        """SELECT b.id, b.held_micro_usd FROM usage_budget b
           WHERE held_micro_usd <> (SELECT coalesce(sum(amount_micro_usd), 0) FROM usage_hold h
                                    WHERE b.id IN (h.budget_id, h.key_budget_id))"""
    ).fetchall()
    assert wrong == []


def test_a_hold_is_refused_when_spent_held_and_it_exceed_the_limit(tenant: Any, price: Price, sums_db: Any) -> None:
    limit(tenant, 100)
    use(tenant, price, 90)
    fold_once()
    hold(tenant, 50)
    assert budget(tenant) == (50, 30)
    with pytest.raises(PaymentRequired) as refused:
        hold(tenant, 21)
    assert refused.value.extra == {"limit_source": "monthly_budget"}
    hold(tenant, 20)
    assert budget(tenant) == (70, 30)
    assert_held_is_the_sum_of_holds(sums_db)


def test_holds_from_many_threads_never_exceed_the_limit(tenant: Any, sums_db: Any) -> None:
    limit(tenant, 1_000)

    def place(amount: int) -> int:
        try:
            hold(tenant, amount)
        except PaymentRequired:
            return 0
        finally:
            connections.close_all()
        return amount

    with ThreadPoolExecutor(8) as pool:
        held = sum(pool.map(place, [7, 50, 110, 3] * 15))
    assert 1_000 - 3 < held <= 1_000
    assert budget(tenant) == (held, 0)
    assert_held_is_the_sum_of_holds(sums_db)


def test_a_released_hold_comes_back_with_the_fold_together_with_what_was_used(tenant: Any, price: Price) -> None:
    placed = hold(tenant, 1000)
    use(tenant, price, 300)
    services.hold_release(tenant=tenant.id, hold=placed)
    assert budget(tenant) == (1000, 0), "usage that is not folded yet stays covered"
    fold_once()
    assert budget(tenant) == (0, 100)


def test_an_event_told_again_counts_once(tenant: Any, price: Price, sums_db: Any) -> None:
    for _ in range(3):
        use(tenant, price, 30, event_id="once", hold=hold(tenant, 10))
    fold_once()
    use(tenant, price, 30, event_id="once", hold=hold(tenant, 10))
    fold_once()
    assert budget(tenant) == (0, 10)
    assert_held_is_the_sum_of_holds(sums_db)


def test_the_same_event_id_of_another_tenant_is_another_event(tenant: Any, other_tenant: Any, price: Price) -> None:
    for one in (tenant, other_tenant):
        use(one, price, 30, event_id="shared")
    fold_once()
    assert [budget(tenant), budget(other_tenant)] == [(0, 10), (0, 10)]


def test_zero_is_recorded_and_nothing_is_refused(tenant: Any, price: Price) -> None:
    use(tenant, price, 0, event_id="zero")
    with tenant_scope(tenant.id):
        assert UsageEvent.objects.get(event_id="zero").quantity == 0
    with pytest.raises(Invalid, match="None"):
        use(tenant, price, None)  # type: ignore[arg-type]


def test_thirds_of_a_micro_dollar_add_up_without_rounding_each(tenant: Any, price: Price, sums_db: Any) -> None:
    for _ in range(10):
        use(tenant, price, 1)
        fold_once()
    assert budget(tenant) == (0, 3), "ten thirds are three and a third; the third waits for more"
    ledger = sums_db.execute(
        "SELECT sum(amount_micro_usd) FILTER (WHERE account = 'customer'), sum(amount_micro_usd)"
        " FROM usage_ledgerentry WHERE tenant_id = %s", [tenant.id]
    ).fetchone()  # fmt: skip
    assert ledger == (3, 0)


def test_a_settlement_whose_hold_was_swept_still_counts(tenant: Any, price: Price, sums_db: Any) -> None:
    placed = services.hold_place(
        tenant=tenant.id, purpose="orphan", amount_micro_usd=500, expires_at=now() - timedelta(seconds=1)
    )
    assert sweep_holds() >= 1
    assert budget(tenant) == (0, 0)
    use(tenant, price, 300, hold=placed)
    fold_once()
    assert budget(tenant) == (0, 100)
    assert_held_is_the_sum_of_holds(sums_db)


def test_an_expired_hold_that_was_settled_waits_for_the_fold_and_not_for_the_sweep(tenant: Any, price: Price) -> None:
    placed = services.hold_place(
        tenant=tenant.id, purpose="late", amount_micro_usd=500, expires_at=now() - timedelta(seconds=1)
    )
    use(tenant, price, 300, hold=placed)
    sweep_holds()
    assert budget(tenant) == (500, 0)
    fold_once()
    assert budget(tenant) == (0, 100)


def test_what_is_held_moves_on_to_the_next_month(tenant: Any, price: Price, sums_db: Any) -> None:
    limit(tenant, 700)
    placed = hold(tenant, 400)
    next_month = (month_of(now()) + timedelta(days=32)).replace(day=1)
    with frozen(datetime(next_month.year, next_month.month, 1, 3, tzinfo=UTC)):
        budget_ensure(tenant=tenant.id, month=next_month)
        assert budget(tenant) == (400, 0)
        with pytest.raises(PaymentRequired):
            hold(tenant, 301)
        use(tenant, price, 900, hold=placed)
        fold_once()
        assert budget(tenant) == (0, 300)
    assert budget(tenant) == (0, 0)
    assert_held_is_the_sum_of_holds(sums_db)


class Died(BaseException):
    """Stands for kill -9 between two steps."""


@pytest.mark.parametrize("point", ["fold.taken", "fold.tallied", "fold.released", "fold.spent"])
def test_a_fold_that_dies_between_two_steps_changes_nothing(
    tenant: Any, price: Price, sums_db: Any, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    use(tenant, price, 300, hold=hold(tenant, 200))

    def die(name: str) -> None:
        if name == point:
            raise Died

    with monkeypatch.context() as patch:
        patch.setattr("tilth.usage.fold.crash_point", die)
        with pytest.raises(Died):
            tenant_fold(tenant=tenant.id)
    assert budget(tenant) == (200, 0)
    assert [tenant_fold(tenant=tenant.id), tenant_fold(tenant=tenant.id)] == [1, 0]
    assert budget(tenant) == (0, 100)
    assert_held_is_the_sum_of_holds(sums_db)


def test_the_database_refuses_a_posting_that_does_not_sum_to_zero(tenant: Any, price: Price) -> None:
    def post(*amounts: int) -> None:
        posting = uuid4()
        with tenant_scope(tenant.id):
            for amount in amounts:
                LedgerEntry.objects.create(
                    posting=posting, account="customer", amount_micro_usd=amount, price=price, month=month_of(now())
                )

    post(5, -5)
    with pytest.raises(IntegrityError, match="sums to 1, not to zero"):
        post(5, -4)


@pytest.mark.parametrize("table", ["usage_usageevent", "usage_ledgerentry", "usage_price"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET created_at = now()", "DELETE FROM {}", "TRUNCATE {} CASCADE"])
def test_what_was_recorded_cannot_be_changed_by_the_product(app_db: Any, table: str, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        app_db.execute(statement.format(table))


def test_a_failing_transaction_takes_the_hold_back_with_it(tenant: Any, sums_db: Any) -> None:
    def hold_and_fail() -> None:
        with tenant_scope(tenant.id):
            hold(tenant, 10)
            connection.cursor().execute("SELECT nonsense FROM nowhere")

    with pytest.raises(ProgrammingError):
        hold_and_fail()
    assert sums_db.execute("SELECT count(*) FROM usage_hold WHERE tenant_id = %s", [tenant.id]).fetchone() == (0,)


def test_declared_prices_are_listed_once_and_a_changed_price_is_a_new_row(
    tenant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"unit.{uuid4().hex[:8]}"
    declared = {name: BillableUnit(name=name, title="A unit", micro_usd=5, per_quantity=2)}
    monkeypatch.setattr("tilth.usage.prices.declared_units", lambda: declared)
    first = services.price_current(unit=name)
    assert [price.unit for price in services.prices_sync()] == []
    use(tenant, first, 10)
    declared[name] = BillableUnit(name=name, title="A unit", micro_usd=7, per_quantity=2)
    assert [price.micro_usd for price in services.prices_sync()] == [7]
    use(tenant, services.price_current(unit=name), 10)
    fold_once()
    assert budget(tenant) == (0, 25 + 35), "what was used at the old price keeps it"


def test_a_unit_that_nobody_declares_has_no_price(database: Any) -> None:
    with pytest.raises(Unavailable, match=r"nothing\.at\.all"):
        services.price_current(unit="nothing.at.all")
