"""Money of batches: an answered row is billed once, a budget that ends stops the batch, late ones write nothing."""

from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from tilth.core.clock import frozen, now

from tests.controlplane.batches.rig import Rig, lines_of

pytestmark = pytest.mark.usefixtures("read_here")

TABLE = b"amount,branch\n" + b"1200,north\n" * 700
ROW = 50
"""Micro-USD of a scored row."""


def test_a_budget_that_does_not_cover_the_first_chunk_fails_the_batch_before_it_begins(rig: Rig, lender: Any) -> None:
    rig.budget(lender, 256 * ROW - 1)
    row = rig.batch(lender, rig.begun(lender, TABLE, model="ft:credit"))
    assert (row.state, row.errors[0]["code"], rig.plane.answers.asked) == ("failed", "budget_exceeded", [])


def test_a_budget_that_ends_stops_the_batch_with_what_is_done_delivered_and_billed(rig: Rig, lender: Any) -> None:
    from tilth.usage.fold import fold_once
    from tilth.usage.selectors import budget_get

    rig.budget(lender, 600 * ROW)
    batch = rig.begun(lender, TABLE, model="ft:credit")
    for _ in range(4):
        rig.runner.work(lender.id, batch)
        fold_once()
    row = rig.batch(lender, batch)
    assert (row.state, row.completed, row.failed) == ("failed", 512, 188)
    assert row.errors[0]["code"] == "budget_exceeded"
    assert [line["line"] for line in rig.output(lender, row)] == list(range(2, 514))
    assert {line["error"]["code"] for line in rig.errors(lender, row)} == {"budget_exceeded"}
    budget = budget_get(tenant=lender.id)
    assert (budget.spent_micro_usd, budget.held_micro_usd) == (512 * ROW, 0)


def test_room_that_is_only_held_for_others_is_waited_for(rig: Rig, lender: Any) -> None:
    from tilth.usage.fold import fold_once
    from tilth.usage.services import hold_place, hold_release

    rig.budget(lender, 800 * ROW)
    batch = rig.begun(lender, TABLE, model="ft:credit")
    ends = now() + timedelta(hours=1)
    other = hold_place(tenant=lender.id, purpose="a job", amount_micro_usd=700 * ROW, expires_at=ends)
    rig.runner.work(lender.id, batch)
    assert (rig.batch(lender, batch).state, rig.plane.answers.asked) == ("in_progress", [])
    assert rig.runner._resting() == [batch]
    hold_release(tenant=lender.id, hold=other)
    fold_once()
    rig.runner.work(lender.id, batch)
    assert rig.batch(lender, batch).completed == 700
    assert rig.runner._resting() == []


@pytest.mark.slow
def test_the_cap_of_the_key_that_asked_ends_a_batch_and_its_spending_counts(rig: Rig, lender: Any) -> None:
    from tilth.tenants.selectors import key_by_secret, principal_of_key
    from tilth.tenants.services import key_create
    from tilth.usage.fold import fold_once

    _, text = key_create(tenant=lender.id, by=lender.principal, name="capped", monthly_cap_micro_usd=300 * ROW)
    by = principal_of_key(key_by_secret(text.secret))
    batch = rig.begun(lender, TABLE, model="ft:credit", by=by)
    for _ in range(3):
        rig.runner.work(lender.id, batch)
        fold_once()
    row = rig.batch(lender, batch)
    assert (row.state, row.completed) == ("failed", 256)
    spent = "SELECT spent_micro_usd, held_micro_usd FROM usage_budget WHERE tenant_id = %s AND key = %s"
    assert rig.db.execute(spent, [lender.id, by.key]).fetchall() == [(256 * ROW, 0)]
    failed_at_once = rig.batch(lender, rig.begun(lender, TABLE, model="ft:credit", by=by))
    assert failed_at_once.errors[0]["code"] == "budget_exceeded"


@pytest.mark.slow
def test_the_price_is_that_of_when_the_batch_was_made(rig: Rig, lender: Any) -> None:
    from tilth.usage.models import Price
    from tilth.usage.prices import price_current

    batch = rig.create(lender, TABLE, model="ft:credit")
    then = price_current(unit="prediction.rows")
    later = Price.objects.create(
        unit="prediction.rows", title="Rows", micro_usd=9999, per_quantity=1, effective_from=now()
    )
    rig.reader.read(lender.id, batch)
    rig.finish(lender, batch)
    told = rig.db.execute("SELECT DISTINCT price_id FROM usage_usageevent WHERE tenant_id = %s", [lender.id]).fetchall()
    rig.db.execute("DELETE FROM usage_usageevent WHERE tenant_id = %s", [lender.id])
    rig.db.execute("DELETE FROM usage_pendingfold WHERE tenant_id = %s", [lender.id])
    rig.db.execute("UPDATE batches_batch SET price_id = %s WHERE tenant_id = %s", [then.id, lender.id])
    rig.db.execute("DELETE FROM usage_price WHERE id = %s", [later.id])
    assert told == [(then.id,)]


def test_a_chunk_that_was_answered_and_not_recorded_is_done_again_and_billed_once(
    rig: Rig, served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tilth.batches import runner, turns

    batch = rig.begun(served, lines_of(300))
    recorded = turns.chunk_record

    def broken(**_: Any) -> None:
        raise OSError("the database went away")

    monkeypatch.setattr(runner, "chunk_record", broken)
    with pytest.raises(OSError, match="went away"):
        rig.runner.work(served.id, batch)
    monkeypatch.setattr(runner, "chunk_record", recorded)
    rig.finish(served, batch)
    assert len(rig.plane.answers.answered) == 556
    assert [quantity for _, _, quantity in rig.events(served)] == [1792, 308]
    assert len(rig.output(served, rig.batch(served, batch))) == 300
    holds = "SELECT count(*) FROM usage_hold WHERE tenant_id = %s AND id NOT IN (SELECT hold FROM usage_pendingfold)"
    assert rig.db.execute(holds, [served.id]).fetchone() == (0,), "the first try's hold is given back, too"


def test_of_two_workers_at_one_chunk_the_later_writes_and_the_other_is_refused(rig: Rig, served: Any) -> None:
    batch = rig.begun(served, lines_of(100))
    met: list[int] = []

    def another_takes_it() -> None:
        met.append(1)
        if len(met) == 2:
            rig.runner.work(served.id, batch)

    rig.plane.answers.meets = another_takes_it
    rig.runner.work(served.id, batch)
    row = rig.batch(served, batch)
    assert (row.state, row.completed, len(rig.output(served, row))) == ("completed", 100, 100)
    assert [quantity for _, _, quantity in rig.events(served)] == [700]


def test_a_chunk_once_answered_is_taken_by_nobody_again(rig: Rig, served: Any) -> None:
    from tilth.batches.turns import StaleTurn, chunk_begin, turn_stands

    batch = rig.begun(served, lines_of(300))
    rig.chunk(served, batch)
    with pytest.raises(StaleTurn):
        chunk_begin(tenant=served.id, batch=batch, number=0, units=1)
    with pytest.raises(StaleTurn):
        turn_stands(tenant=served.id, batch=batch, turn=1)


@pytest.mark.slow
@pytest.mark.parametrize("spoil", ["full", "digest", "down"])
def test_a_data_plane_that_cannot_answer_is_asked_again_later_and_nothing_is_billed_for_it(
    rig: Rig, served: Any, spoil: str
) -> None:
    answers = rig.plane.answers
    batch = rig.begun(served, lines_of(10))
    answers.full, answers.digest, rig.plane.down = (
        1 if spoil == "full" else 0, "sha256:wrong" if spoil == "digest" else None, spoil == "down",
    )  # fmt: skip
    rig.runner.work(served.id, batch)
    assert (rig.batch(served, batch).next_chunk, rig.events(served), rig.runner._resting()) == (0, [], [batch])
    answers.digest, rig.plane.down = None, False
    rig.runner.work(served.id, batch)
    assert (rig.batch(served, batch).completed, rig.events(served)[0][2]) == (10, 70)


@pytest.mark.slow
def test_the_rests_grow_to_half_a_minute_and_end_with_the_first_success(rig: Rig, served: Any) -> None:
    batch = rig.begun(served, lines_of(300))
    rig.plane.answers.full = 9
    pauses = []
    for _ in range(9):
        rig.runner.work(served.id, batch)
        pauses.append(rig.runner._rests[batch].pause_s)
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    rig.runner.work(served.id, batch)
    assert batch not in rig.runner._rests


def test_what_is_not_done_within_the_window_is_left_and_told(rig: Rig, served: Any) -> None:
    batch = rig.begun(served, lines_of(300))
    rig.chunk(served, batch)
    with frozen(now() + timedelta(hours=24, seconds=1)):
        rig.finish(served, batch)
    row = rig.batch(served, batch)
    assert (row.state, row.completed, row.failed) == ("expired", 256, 44)
    left = rig.errors(served, row)
    assert left[0]["response"] is None
    assert left[0]["error"] == {
        "code": "batch_expired",
        "message": "This request could not be executed before the completion window expired.",
    }
    assert [line["custom_id"] for line in left] == [f"request-{number}" for number in range(256, 300)]
    assert len(rig.events(served)) == 1


def test_a_window_that_ends_amid_a_chunk_ends_the_chunk(rig: Rig, served: Any) -> None:
    batch = rig.begun(served, lines_of(256))

    def later() -> None:
        if len(rig.plane.answers.asked) == 3:
            stack.enter_context(frozen(now() + timedelta(hours=25)))

    rig.plane.answers.meets = later
    with ExitStack() as stack:
        rig.runner.work(served.id, batch)
        assert len(rig.plane.answers.asked) == 4, "the call under way was the last"
        rig.runner.work(served.id, batch)
    assert (rig.batch(served, batch).state, rig.events(served)) == ("expired", [])


def test_a_file_that_could_not_be_read_within_the_window_fails(rig: Rig, served: Any) -> None:
    batch = rig.create(served, lines_of(3))
    with frozen(now() + timedelta(hours=25)):
        rig.reader.read(served.id, batch)
    assert rig.batch(served, batch).errors[0]["code"] == "batch_expired"


def test_a_worker_that_dies_while_files_are_put_together_leaves_one_of_each(rig: Rig, served: Any) -> None:
    from tilth.batches import finishing
    from tilth.batches.states import State
    from tilth.batches.turns import StaleTurn

    batch = rig.begun(served, lines_of(3))
    rig.chunk(served, batch)
    first = finishing._begin(tenant=served.id, batch=batch, ending=State.COMPLETED)
    good, _ = finishing._written(first, finishing._answered(tenant=served.id, batch=batch))
    rig.finish(served, batch)
    with pytest.raises(StaleTurn):
        finishing._end(tenant=served.id, batch=batch, turn=first.turn, good=good, bad=None)
    count = "SELECT count(*) FROM datasets_file WHERE tenant_id = %s AND purpose = 'batch_output'"
    assert rig.db.execute(count, [served.id]).fetchone() == (1,)


def test_a_data_plane_that_miscounts_is_not_believed(rig: Rig, served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tilth.contract.messages import PredictionUsage

    answers, batch = rig.plane.answers, rig.begun(served, lines_of(3))
    honest = answers._counted
    wrong = [
        (PredictionUsage(rows=3, tokens=99), (7, 7, 7)), (PredictionUsage(rows=2, tokens=14), (7, 7)),
        (PredictionUsage(rows=3, tokens=21), ()),
    ]  # fmt: skip
    for told in wrong:
        monkeypatch.setattr(answers, "_counted", lambda flow, rows, told=told: told)
        rig.runner.work(served.id, batch)
        assert (rig.batch(served, batch).next_chunk, rig.events(served)) == (0, [])
    monkeypatch.setattr(answers, "_counted", honest)
    rig.runner.work(served.id, batch)
    assert rig.batch(served, batch).completed == 3
