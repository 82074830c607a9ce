"""Batches wait their turn: one flow of their own, few calls at a time, organisations and batches in turn."""

import threading
from typing import Any
from uuid import UUID

import pytest
from tilth.batches.pace import AT_ONCE, CALL_ROWS

from tests.controlplane.batches.rig import Rig, lines_of
from tests.controlplane.gateway_rig import deploy, eventually

pytestmark = pytest.mark.usefixtures("read_here")


def test_the_flow_of_a_batch_is_another_than_that_of_interactive_predictions(rig: Rig, served: Any) -> None:
    from tilth.dataplane.flow import batch_flow_of, flow_of

    rig.done(served, lines_of(3))
    assert {flow for flow, _ in rig.plane.answers.asked} == {batch_flow_of(served.id)}
    assert batch_flow_of(served.id) != flow_of(served.id)


@pytest.mark.slow
def test_a_call_has_few_rows_even_of_a_request_that_has_many(rig: Rig, served: Any) -> None:
    from tests.controlplane.batches.rig import MODEL, jsonl, request_line

    body = {"model": MODEL, "inputs": [{"text": str(number)} for number in range(1000)]}
    row = rig.done(served, jsonl(request_line(0, body=body)))
    assert max(rows for _, rows in rig.plane.answers.asked) == CALL_ROWS
    (line,) = rig.output(served, row)
    assert line["response"]["body"]["usage"] == {"rows": 1000, "tokens": 7000}


def test_calls_shrink_to_a_row_on_a_slow_data_plane_and_grow_by_two_at_most_on_a_fast_one() -> None:
    from tilth.batches.pace import CALL_S, Pace

    pace, seen = Pace(), []
    for seconds_of_a_row in [0.0] * 4 + [CALL_S / 5] * 2 + [CALL_S * 9] * 2 + [0.0] * 2:
        pace.took(pace.rows, pace.rows * seconds_of_a_row)
        seen.append(pace.rows)
    assert seen == [16, 32, 32, 32, 5, 5, 1, 1, 2, 4]


@pytest.mark.slow
def test_no_more_calls_than_said_are_under_way_however_many_organisations_have_batches(
    rig: Rig, make_tenant: Any
) -> None:
    tenants = [make_tenant() for _ in range(5)]
    for tenant in tenants:
        deploy(rig.db, tenant)
        rig.begun(tenant, lines_of(200))
    now_under_way = most = 0
    lock = threading.Lock()

    def counted() -> None:
        nonlocal now_under_way, most
        with lock:
            now_under_way += 1
            most = max(most, now_under_way)
        threading.Event().wait(0.01)
        with lock:
            now_under_way -= 1

    rig.plane.answers.meets = counted

    def all_done() -> bool:
        rig.runner.step()
        return all(count == 200 for count in counts(rig, tenants))

    assert eventually_within(all_done)
    assert 1 <= most <= AT_ONCE


@pytest.mark.slow
def test_each_organisation_has_its_turn_before_one_has_a_second(
    rig: Rig, make_tenant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tilth.batches import runner
    from tilth.batches.queue import batches_to_work

    monkeypatch.setattr(runner, "SLICE_S", 0.0)
    many, few = make_tenant(), make_tenant()
    for tenant in (many, few):
        deploy(rig.db, tenant)
    batches = [rig.begun(many, lines_of(600)) for _ in range(3)]
    late = rig.begun(few, lines_of(600))
    turns: list[UUID] = []
    for _ in range(4):
        for tenant, batch in batches_to_work():
            turns.append(batch)
            rig.chunk({many.id: many, few.id: few}[tenant], batch)
    assert turns.count(late) == 4, "one batch gets as many turns as three of another organisation together"
    assert [turns.count(batch) for batch in batches] == [2, 1, 1], "which take turns among themselves"


def test_a_batch_that_rests_holds_up_no_other(rig: Rig, served: Any) -> None:
    from tilth.batches.queue import batches_to_work

    first, second = rig.begun(served, lines_of(3)), rig.begun(served, lines_of(3))
    rig.plane.answers.full = 1
    rig.runner.work(served.id, first)
    assert batches_to_work(but=rig.runner._resting()) == [(served.id, second)]


def counts(rig: Rig, tenants: list[Any]) -> list[int]:
    found: dict[UUID, int] = dict(rig.db.execute("SELECT tenant_id, completed FROM batches_batch").fetchall())
    return [found[tenant.id] for tenant in tenants]


def eventually_within(condition: Any) -> bool:
    return any(eventually(condition) for _ in range(6))
