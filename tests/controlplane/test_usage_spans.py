"""Device spans: billed from start to last heartbeat, never over real time, never two on one slot of a device."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tilth.core.clock import frozen, now
from tilth.core.errors import Invalid
from tilth.core.scope import tenant_scope
from tilth.usage import services
from tilth.usage.models import DeviceSpan, Price, UsageEvent
from tilth.usage.spans import SLOTS, first_gap

AGO = timedelta(minutes=10)


@pytest.fixture
def price(database: Any) -> Price:
    return Price.objects.create(unit=f"device.{uuid4().hex[:8]}", title="Device", micro_usd=1, per_quantity=1)


@pytest.fixture
def device() -> str:
    return f"gpu:{uuid4().hex}"


def open_span(
    tenant: Any, price: Price, device: str, at: datetime, job: UUID | None = None, share: int = 1000
) -> dict[str, Any]:
    attempt = {"tenant": tenant.id, "job": job or uuid4(), "attempt": 1}
    services.span_open(**attempt, device=device, share_millis=share, price=price.id, opened_at=at)
    return attempt


def billed(attempt: dict[str, Any]) -> list[int]:
    with tenant_scope(attempt["tenant"]):
        return [
            event.quantity for event in UsageEvent.objects.filter(event_id=f"{attempt['job']}:{attempt['attempt']}")
        ]


def test_a_span_is_billed_once_from_start_to_last_heartbeat(tenant: Any, price: Price, device: str) -> None:
    attempt = open_span(tenant, price, device, now() - AGO)
    services.span_extend(**attempt, device_ms=10_000)
    services.span_extend(**attempt, device_ms=9_000)
    for ms in (12_345, 99_000):
        services.span_close(**attempt, device_ms=ms, reason="exit")
    services.span_extend(**attempt, device_ms=50_000)
    assert billed(attempt) == [12_345]


def test_a_crash_is_billed_to_its_last_heartbeat(tenant: Any, price: Price, device: str) -> None:
    attempt = open_span(tenant, price, device, now() - AGO)
    services.span_extend(**attempt, device_ms=10_000)
    services.span_close(**attempt, device_ms=0, reason="lost")
    assert billed(attempt) == [10_000]


def test_a_crash_before_the_first_heartbeat_is_an_explicit_zero(tenant: Any, price: Price, device: str) -> None:
    attempt = open_span(tenant, price, device, now() - AGO)
    services.span_close(**attempt, device_ms=0, reason="lost")
    assert billed(attempt) == [0]


def test_more_device_time_than_has_passed_is_refused(tenant: Any, price: Price, device: str) -> None:
    opened = now() - timedelta(seconds=10)
    attempt = open_span(tenant, price, device, opened)
    with pytest.raises(Invalid, match="ahead of the clock"):
        services.span_extend(**attempt, device_ms=13_000)
    with pytest.raises(Invalid, match="ahead of the clock"):
        open_span(tenant, price, device, now() + timedelta(seconds=5))
    services.span_close(**attempt, device_ms=9_000, reason="exit")
    assert billed(attempt) == [9_000]


def test_half_a_device_costs_half(tenant: Any, price: Price, device: str) -> None:
    attempt = open_span(tenant, price, device, now() - AGO, share=500)
    services.span_close(**attempt, device_ms=9_001, reason="exit")
    assert billed(attempt) == [4_500]


def test_shares_of_one_device_stand_side_by_side_and_never_exceed_it(
    tenant: Any, other_tenant: Any, price: Price, device: str
) -> None:
    opened = now() - AGO
    spans = [open_span(one, price, device, opened, share=400) for one in (tenant, other_tenant)]
    for attempt in spans:
        services.span_extend(**attempt, device_ms=30_000)
    with pytest.raises(Invalid, match="held by others"):
        open_span(tenant, price, device, opened + timedelta(seconds=10), share=400)
    open_span(tenant, price, device, opened + timedelta(seconds=10), share=200)


def test_a_device_whose_holder_went_silent_can_be_held_again_from_then_on(
    tenant: Any, other_tenant: Any, price: Price, device: str
) -> None:
    opened = now() - AGO
    silent = open_span(tenant, price, device, opened)
    services.span_extend(**silent, device_ms=30_000)
    heir = open_span(other_tenant, price, device, opened + timedelta(seconds=40))
    services.span_extend(**heir, device_ms=5_000)
    with pytest.raises(Exception, match="device_is_never_oversold"):
        services.span_extend(**silent, device_ms=42_000)


def test_clocks_that_differ_a_little_move_the_start_and_not_the_bill_of_the_other(
    tenant: Any, price: Price, device: str
) -> None:
    opened = now() - AGO
    first = open_span(tenant, price, device, opened)
    services.span_close(**first, device_ms=30_000, reason="exit")
    second = open_span(tenant, price, device, opened + timedelta(milliseconds=29_600))
    services.span_close(**second, device_ms=10_000, reason="exit")
    assert [billed(first), billed(second)] == [[30_000], [9_600]]


def test_the_database_itself_refuses_to_sell_a_device_twice(
    tenant: Any, other_tenant: Any, price: Price, device: str, app_db: psycopg.Connection
) -> None:
    insert = """INSERT INTO usage_devicespan (id, tenant_id, created_at, job, attempt, device, share_from, share_to,
        price_id, opened_at, ends_at, device_ms, skipped_ms, reason)
        VALUES (gen_random_uuid(), %s, now(), gen_random_uuid(), 1, %s, %s, 1000, %s, now(), now() + '1 s', 0, 0, '')"""

    def sell(one: Any, share_from: int) -> None:
        with app_db.transaction():
            app_db.execute("SELECT set_config('tilth.tenant', %s, true)", [str(one.id)])
            app_db.execute(insert, [one.id, device, share_from, price.id])

    sell(tenant, 500)
    with pytest.raises(psycopg.errors.ExclusionViolation):
        sell(other_tenant, 999)


def test_opening_twice_is_one_span(tenant: Any, price: Price, device: str) -> None:
    job, at = uuid4(), now() - AGO
    for _ in range(2):
        open_span(tenant, price, device, at, job=job)
    with tenant_scope(tenant.id):
        assert DeviceSpan.objects.filter(job=job).count() == 1


def test_time_is_counted_in_the_month_in_which_it_ended(tenant: Any, price: Price, device: str) -> None:
    at = now()
    with frozen(at):
        attempt = open_span(tenant, price, device, at - AGO)
        services.span_close(**attempt, device_ms=600_000, reason="exit")
    with tenant_scope(tenant.id):
        assert UsageEvent.objects.get(source="training").occurred_at == at


@given(st.lists(st.tuples(st.integers(0, SLOTS - 1), st.integers(1, SLOTS))), st.integers(1, SLOTS))
def test_a_gap_is_free_and_none_is_missed(spans: list[tuple[int, int]], share: int) -> None:
    taken = [(begin, min(begin + size, SLOTS)) for begin, size in spans]
    slots = {slot for begin, end in taken for slot in range(begin, end)}
    starts = [at for at in range(SLOTS - share + 1) if slots.isdisjoint(range(at, at + share))]
    assert first_gap(taken, share) == (starts[0] if starts else None)
