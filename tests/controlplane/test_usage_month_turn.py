"""Budgets where a month turns or a key is rotated: what is held is the sum of holds, and a key has one cap."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any
from unittest.mock import Mock
from uuid import UUID

import psycopg
import pytest
from django.db import InternalError, OperationalError, connections
from django.test import Client
from tilth.core.clock import frozen, now
from tilth.core.errors import Invalid, PaymentRequired
from tilth.core.scope import tenant_scope
from tilth.tenants.models import ApiKey
from tilth.tenants.services import key_create, key_rotate
from tilth.usage import services, statements
from tilth.usage.budgets import budget_ensure, month_of
from tilth.usage.fold import fold_once
from tilth.usage.models import Budget, Price
from tilth.usage.services import Capped

from tests.controlplane.gateway_rig import eventually

CAP = 100


@pytest.fixture
def price(database: Any) -> Price:
    """One micro-dollar each."""
    return Price.objects.create(unit="test.turn", title="Ones", micro_usd=1, per_quantity=1)


@pytest.fixture
def key(tenant: Any) -> UUID:
    """A key with a cap."""
    return key_create(tenant=tenant.id, by=tenant.principal, name="capped", monthly_cap_micro_usd=CAP)[0].id


def hold(tenant: Any, key: UUID, amount: int) -> UUID:
    return services.hold_place(
        tenant=tenant.id, purpose="test", amount_micro_usd=amount, expires_at=now() + timedelta(minutes=5),
        capped=Capped(key, CAP),
    )  # fmt: skip


def use(tenant: Any, price: Price, key: UUID, quantity: int, hold: UUID) -> None:
    services.event_record(
        tenant=tenant.id, source="test", event_id=hold.hex, price=price.id, quantity=quantity, subject="ft:test",
        occurred_at=now(), key=key, hold=hold,
    )  # fmt: skip


def next_month() -> date:
    return (month_of(now()) + timedelta(days=32)).replace(day=1)


def turn(tenant: Any, key: UUID) -> None:
    """The first that is done in the next month."""
    with tenant_scope(tenant.id):
        budget_ensure(tenant=tenant.id, month=next_month())
        budget_ensure(tenant=tenant.id, month=next_month(), key=key, cap_micro_usd=CAP)


def release(db: psycopg.Connection, tenant: Any, hold: UUID) -> None:
    """As the gateway does it."""
    with db.transaction():
        db.execute("SELECT set_config('tilth.tenant', %s, true)", [str(tenant.id)])
        db.execute(statements.RELEASE, {"tenant": tenant.id, "ids": [hold]})


def wait_for_locks(db: psycopg.Connection, count: int) -> None:
    """Until so many connections wait for others."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    assert eventually(lambda: db.execute(waiting).fetchone() == (count,))


def in_thread(pool: ThreadPoolExecutor, act: Callable[[], None]) -> Future[None]:
    def done() -> None:
        try:
            act()
        finally:
            connections.close_all()

    return pool.submit(done)


def held(db: psycopg.Connection, tenant: Any) -> list[tuple[date, bool, int, int]]:
    """(month, of a key, held, sum of its holds)."""
    return db.execute(
        """SELECT month, key IS NOT NULL, held_micro_usd, (SELECT coalesce(sum(amount_micro_usd), 0)::bigint
               FROM usage_hold h WHERE b.id IN (h.budget_id, h.key_budget_id))
           FROM usage_budget b WHERE tenant_id = %s ORDER BY 1, 2""", [tenant.id]
    ).fetchall()  # fmt: skip


def budgets(tenant: Any, month: date) -> list[tuple[UUID | None, int, int]]:
    """(key, held, spent)."""
    with tenant_scope(tenant.id):
        found = Budget.objects.filter(month=month).order_by("id")
        return list(found.values_list("key", "held_micro_usd", "spent_micro_usd"))


def test_a_hold_given_back_while_the_month_turns_frees_the_budgets_of_the_new_month(
    tenant: Any, key: UUID, app_db: Any, sums_db: Any
) -> None:
    kept, placed = hold(tenant, key, 7), hold(tenant, key, 40)
    with ThreadPoolExecutor(1) as pool:
        with tenant_scope(tenant.id):
            turn(tenant, key)
            released = pool.submit(release, app_db, tenant, placed)
            wait_for_locks(sums_db, 1)
        released.result()
    this, following = month_of(now()), next_month()
    assert held(sums_db, tenant) == [
        (this, False, 0, 0), (this, True, 0, 0), (following, False, 7, 7), (following, True, 7, 7),
    ]  # fmt: skip
    release(app_db, tenant, kept)
    assert held(sums_db, tenant)[2:] == [(following, False, 0, 0), (following, True, 0, 0)]


def test_the_turn_of_the_month_and_a_release_do_not_wait_for_each_other_in_a_circle(
    tenant: Any, key: UUID, app_db: Any, sums_db: Any
) -> None:
    placed = hold(tenant, key, 40)
    with ThreadPoolExecutor(2) as pool:
        with tenant_scope(tenant.id):
            Budget.locked(key=None)
            turned = in_thread(pool, lambda: turn(tenant, key))
            wait_for_locks(sums_db, 1)
            released = pool.submit(release, app_db, tenant, placed)
            wait_for_locks(sums_db, 2)
        turned.result()
        released.result()
    assert [row[2:] for row in held(sums_db, tenant)] == [(0, 0)] * 4


def test_what_a_capped_key_used_just_after_midnight_counts_in_its_new_month(
    tenant: Any, key: UUID, price: Price
) -> None:
    month = next_month()
    midnight = datetime(month.year, month.month, 1, tzinfo=UTC)
    with frozen(midnight - timedelta(milliseconds=100)):
        placed = hold(tenant, key, 40)
    with frozen(midnight + timedelta(milliseconds=100)):
        use(tenant, price, key, 30, placed)
        fold_once()
        assert budgets(tenant, month) == [(None, 0, 30), (key, 0, 30)]


def test_a_rotated_key_goes_on_with_the_cap_of_the_one_before(tenant: Any, key: UUID, price: Price) -> None:
    use(tenant, price, key, 50, hold(tenant, key, 50))
    fold_once()
    second = key_rotate(tenant=tenant.id, by=tenant.principal, key=key)[0].id
    third = key_rotate(tenant=tenant.id, by=tenant.principal, key=second)[0].id
    placed = hold(tenant, third, 30)
    for each in (key, second, third):
        with pytest.raises(PaymentRequired) as refused:
            hold(tenant, each, 21)
        assert refused.value.extra == {"limit_source": "key_cap"}
    use(tenant, price, third, 30, placed)
    fold_once()
    assert budgets(tenant, month_of(now())) == [(None, 0, 80), (key, 0, 80)]
    with pytest.raises(PaymentRequired):
        hold(tenant, second, 21)


def test_a_key_and_the_one_rotated_from_it_never_hold_more_than_the_cap_together(
    tenant: Any, key: UUID, sums_db: Any
) -> None:
    fresh = key_rotate(tenant=tenant.id, by=tenant.principal, key=key)[0].id

    def place(number: int) -> int:
        try:
            hold(tenant, [key, fresh][number % 2], 3)
        except PaymentRequired:
            return 0
        finally:
            connections.close_all()
        return 3

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(place, range(60))) == CAP - CAP % 3
    assert [row[2:] for row in held(sums_db, tenant)] == [(99, 99)] * 2


def test_a_rotated_key_ends_when_the_one_before_would_have_ended(tenant: Any) -> None:
    ends = now() + timedelta(days=3)
    old, _ = key_create(tenant=tenant.id, by=tenant.principal, name="short", expires_at=ends)
    for _ in range(2):
        fresh, _ = key_rotate(tenant=tenant.id, by=tenant.principal, key=old.id)
        assert fresh.expires_at == ends
    with frozen(ends), pytest.raises(Invalid, match="has ended"):
        key_rotate(tenant=tenant.id, by=tenant.principal, key=fresh.id)


def last_used(tenant: Any, key: UUID) -> datetime | None:
    with tenant_scope(tenant.id):
        return ApiKey.objects.get(id=key).last_used_at


def test_a_key_knows_when_it_was_used_last_to_a_minute(tenant: Any, key: UUID, price: Price) -> None:
    other = key_create(tenant=tenant.id, by=tenant.principal, name="idle")[0].id
    assert last_used(tenant, key) is None
    began = now()
    for seconds, known in ((0, 0), (50, 0), (70, 70), (61, 70)):
        with frozen(began + timedelta(seconds=seconds)):
            use(tenant, price, key, 1, hold(tenant, key, 1))
            fold_once()
        assert last_used(tenant, key) == began + timedelta(seconds=known)
    assert last_used(tenant, other) is None


def test_a_key_that_asks_the_control_plane_is_used_too(tenant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made, text = key_create(tenant=tenant.id, by=tenant.principal, name="reads")
    client = Client()
    asked = {"Authorization": f"Bearer {text.secret}"}
    for seconds, known in ((0, 0), (59, 0), (61, 61)):
        with frozen(made.created_at + timedelta(seconds=seconds)):
            assert client.get("/v1/files", headers=asked).status_code == 200
        assert last_used(tenant, made.id) == made.created_at + timedelta(seconds=known)

    for refused in (
        OperationalError("could not extend file: No space left on device"),
        InternalError("cannot execute UPDATE in a read-only transaction"),
    ):
        monkeypatch.setattr("tilth.tenants.authentication.keys_used", Mock(side_effect=refused))
        with frozen(made.created_at + timedelta(hours=1)):
            assert client.get("/v1/files", headers=asked).status_code == 200
