"""What of the budget a reporter keeps in reserve for finishing, and the time that it foretells."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from inference.engine.reporting import Reporter


class Clock:
    """Time that passes when told to."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


class Watched:
    """A span that remembers what reserve it was asked with."""

    reserve_ms = 0

    def check_budget(self, reserve_ms: int) -> None:
        self.reserve_ms = reserve_ms


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("inference.engine.reporting.time", made)
    return made


def reporter(told: list[dict[str, Any]], *, final: float) -> tuple[Reporter, Watched]:
    span = Watched()
    spool = SimpleNamespace(emit=lambda *_, data: told.append(data))
    return Reporter(cast("Any", spool), cast("Any", span), lambda: None, total=100_000.0, final=final), span


def test_the_time_before_the_first_batch_says_nothing_of_a_row_pass(clock: Clock) -> None:
    told: list[dict[str, Any]] = []
    made, span = reporter(told, final=10_000)
    clock.now += 12
    made.check(0)
    for batch in range(1, 101):
        clock.now += 0.064
        made.work(64)
        made.check(batch)
        assert span.reserve_ms in (0, pytest.approx(10_000, abs=1))
    assert span.reserve_ms > 0
    made.step(rung="probe", step=100, total_steps=1000, loss=1.0, force=True)
    assert told[-1]["eta_s"] == pytest.approx(100 - 6.4)


def test_a_few_slow_batches_foretell_nothing_of_finishing(clock: Clock) -> None:
    made, span = reporter([], final=100_000)
    made.check(0)
    clock.now += 3
    made.work(4_900)
    made.check(1)
    assert span.reserve_ms == 0
    made.work(100)
    made.check(2)
    assert span.reserve_ms == pytest.approx(60_000, abs=1)
