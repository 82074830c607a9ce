"""Customers take turns, and are told how long it will take and cost."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tilth.contract.learning import Method, Rung
from tilth.contract.messages import TrainingOptions
from tilth.core.money import Price
from tilth.dataplane.fake_trainer import Script
from tilth.training import estimates
from tilth.training.queue import active_attempts, finished_rates
from tilth.training.selectors import job_get
from tilth.training.states import State


@pytest.mark.slow
def test_after_a_queued_a_hundred_and_b_one_bs_is_next(rig: Any, tenant: Any, other_tenant: Any) -> None:
    file = rig.make_file(tenant)
    hundred = [rig.queued(tenant, training_file=file) for _ in range(100)]
    rig.turn()
    one = rig.queued(other_tenant)
    rig.turn()
    assert [job for job, _ in rig.plane.starts] == [hundred[0].hex, one.hex]
    rig.turn()
    assert rig.plane.starts[2] == (hundred[1].hex, 1)


@pytest.mark.slow
def test_whoever_has_fewer_jobs_running_is_next_even_if_they_asked_later(
    rig: Any, make_tenant: Callable[[], Any]
) -> None:
    rig.plane.script = lambda spec: Script(step_s=60)
    rig.plane.trainers = 3
    first, second = make_tenant(), make_tenant()
    [rig.queued(first) for _ in range(3)]
    rig.dispatcher.step()
    assert len(rig.plane.starts) == 3
    rig.plane.trainers = 4
    rig.queued(first)
    later = rig.queued(second)
    rig.dispatcher.step()
    assert rig.plane.starts[3] == (later.hex, 1)


def test_no_more_jobs_are_leased_than_trainers_are_free(rig: Any, tenant: Any) -> None:
    rig.plane.script = lambda spec: Script(step_s=60)
    jobs = [rig.queued(tenant) for _ in range(3)]
    for _ in range(3):
        rig.turn()
    assert [rig.job(tenant, job).state for job in jobs] == [State.RUNNING, State.QUEUED, State.QUEUED]
    assert len(active_attempts()) == 1


def test_a_queued_job_shows_its_place_estimate_and_cost(rig: Any, tenant: Any, other_tenant: Any) -> None:
    file = rig.make_file(tenant)
    own = [rig.queued(tenant, training_file=file) for _ in range(3)]
    for _ in range(2):
        rig.queued(other_tenant)
    views = [job_get(tenant=tenant.id, job=job) for job in own]
    assert [view.queue_position for view in views] == [2, 4, 5]
    estimate = views[0].estimate
    assert estimate is not None
    assert 0 < estimate["cost_micro_usd"] <= estimate["at_most_micro_usd"]


def test_the_place_in_the_queue_counts_each_other_customer_at_most_as_often_as_ourselves() -> None:
    assert estimates.queue_position(0, []) == 1
    assert estimates.queue_position(0, [100]) == 2
    assert estimates.queue_position(2, [100, 1]) == 1 + 2 + 3 + 1


def test_the_rate_is_learned_from_finished_jobs_and_a_default_before() -> None:
    probe, search = TrainingOptions(highest_rung=Rung.PROBE), TrainingOptions(trials=20)
    assert estimates.ms_per_row([(12_000, 100)], probe) == estimates.DEFAULT_MS_PER_ROW[Rung.PROBE]
    assert estimates.ms_per_row([(12_000, 100)] * 4 + [(900_000, 100)], probe) == 100.0
    assert estimates.ms_per_row([], search) == pytest.approx(5 * estimates.DEFAULT_MS_PER_ROW[Rung.LORA])
    assert estimates.ms_per_row([], TrainingOptions()) == estimates.DEFAULT_MS_PER_ROW[TrainingOptions().top]


@pytest.mark.slow
def test_a_job_is_estimated_by_jobs_of_its_own_kind(rig: Any, tenant: Any) -> None:
    search = TrainingOptions(trials=4)
    wider = search.model_copy(update={"base_models": ("minilm-l6",)})
    kinds = TrainingOptions(seed=1), TrainingOptions(method=Method.FULL), search, wider
    file = rig.make_file(tenant)
    for options in kinds:
        ended(rig, tenant, rig.queued(tenant, training_file=file, options=options))
    asked = {"vertical": "support_chat", "base_model": "minilm-l6"}
    before = [len(finished_rates(**asked, options=options)) for options in kinds]
    ended(rig, tenant, rig.queued(tenant, training_file=file, options=kinds[1]))
    after = [len(finished_rates(**asked, options=options)) for options in kinds]
    assert [more - less for more, less in zip(after, before, strict=True)] == [0, 1, 0, 0]


def ended(rig: Any, tenant: Any, job: Any) -> None:
    for _ in range(50):
        rig.turn()
        if rig.job(tenant, job).state == State.SUCCEEDED:
            return
    raise AssertionError("the job has not ended")


@given(st.integers(0, 10**7), st.floats(0.1, 1000))
def test_the_hold_always_covers_the_cap_and_the_cap_the_estimate(rows: int, rate: float) -> None:
    estimate = estimates.estimate_ms(rows, rate)
    cap = estimates.cap_ms(estimate)
    told = estimates.shown(estimate, cap, Price(1400, 1000))
    assert told is not None
    assert told["cost_micro_usd"] <= told["at_most_micro_usd"]
    assert told["at_most_micro_usd"] * 1000 >= cap * 1400


@pytest.mark.parametrize("missing", [(None, 1, Price(1, 1)), (1, None, Price(1, 1)), (1, 1, None)])
def test_nothing_is_estimated_before_the_files_are_checked(missing: Any) -> None:
    assert estimates.shown(*missing) is None
