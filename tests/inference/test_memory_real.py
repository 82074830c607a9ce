"""Jobs on the real base model in processes of their own: predicted beside real; one that runs out beside another."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.inference.memory_shapes import Shape, measure

pytestmark = pytest.mark.slow

TOLERANCE = 0.25
SHAPES = (
    Shape(600, 16, 10, rung="probe"),
    Shape(3000, 16, 600, rung="probe"),
    Shape(90, 128, 10, batch=64),
)


@pytest.mark.parametrize("shape", SHAPES, ids=Shape.name)
def test_the_predicted_peak_is_within_a_quarter_of_the_real_one(shape: Shape) -> None:
    found = measure(shape)
    assert found.ended == "succeeded", found.said
    assert found.predicted / found.peak == pytest.approx(1, abs=TOLERANCE)


def test_a_job_that_runs_out_although_it_should_fit_goes_on_smaller_and_harms_no_other() -> None:
    greedy = Shape(90, 128, 10, batch=64, memory_mb=900, lie=0.05)
    with ThreadPoolExecutor(2) as both:
        ran_out, beside = both.map(measure, (greedy, Shape(120, 16, 4, rung="probe")))
    assert beside.ended == "succeeded"
    assert ran_out.ended == "succeeded" or ran_out.last["code"] == "out_of_memory", ran_out.said
    assert any("emory ran out" in said or "ran out of memory" in said for said in ran_out.said)
    assert ran_out.device_ms <= ran_out.wall_ms
