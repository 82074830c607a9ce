"""Scores, intervals and calibration against values worked out by hand or by another library."""

from dataclasses import replace
from typing import cast

import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score
from tilth.contract.learning import Rung
from torch import Tensor

from inference.engine.adapting.steps import schedule
from inference.engine.batches import by_length, epoch_order, padded
from inference.engine.calibrate import scope_rule, temperature
from inference.engine.candidate import Lesson, Model, Outcome
from inference.engine.errors import JobFault
from inference.engine.evaluate import (
    auroc,
    error_upper_bound,
    expected_calibration_error,
    interval,
    macro_f1,
    mean_of,
)
from inference.engine.objectives.multi_label import MultiLabel
from inference.engine.objectives.number import Number
from inference.engine.objectives.single_label import SingleLabel
from inference.engine.outcome import SURE, Comparison, compare
from inference.engine.task import Examples


def test_macro_f1_and_auroc_equal_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, targets = (torch.randint(5, (200,), generator=generator) for _ in range(2))
    assert macro_f1(predicted, targets, 5) == pytest.approx(f1_score(targets, predicted, average="macro"))
    inside, outside = (torch.randint(10, (n,), generator=generator).float() + k for n, k in ((80, 3), (50, 0)))
    truth = [1] * 80 + [0] * 50
    assert auroc(inside, outside) == pytest.approx(roc_auc_score(truth, torch.cat([inside, outside])))


def test_the_bootstrap_interval_holds_the_normal_one() -> None:
    correct = torch.tensor([1.0] * 900 + [0.0] * 100)
    low, high = interval(mean_of(correct), len(correct))
    half = 1.96 * (0.9 * 0.1 / 1000) ** 0.5
    assert [low, high] == pytest.approx([0.9 - half, 0.9 + half], abs=0.004)


def test_a_mean_of_is_narrower_than_two_unpaired_intervals() -> None:
    old = torch.tensor([1.0] * 90 + [0.0] * 10)
    new = old.clone()
    new[90:93] = 1.0
    low, high = interval(mean_of(new - old), len(new))
    assert 0 <= low < 0.03 < high < 0.08


def test_a_tie_goes_to_the_cheaper_rung() -> None:
    assert not Comparison(0.0, -0.01, 0.01, SURE, 1.0).worth_it
    assert not Comparison(0.0009, -0.01, 0.01, SURE, 1.0).worth_it
    assert Comparison(0.001, -0.01, 0.01, SURE, -1.0).worth_it


def test_where_few_rows_judge_the_loss_decides_between_models_whose_scores_are_not_surely_apart() -> None:
    assert Comparison(-0.005, -0.015, 0.005, SURE - 1, 0.001).worth_it
    assert not Comparison(-0.0052, -0.0152, 0.0048, SURE - 1, 0.1).worth_it, "beyond a standard error of 0.0051"
    assert not Comparison(0.1, 0.09, 0.11, SURE - 1, 0.0009).worth_it
    assert not Comparison(0.1, 0.09, 0.11, SURE - 1, float("nan")).worth_it


def outcome(outputs: Tensor) -> Outcome:
    return Outcome("made", Rung.PROBE, cast("Model", None), outputs)


@pytest.mark.parametrize("sure", [0.2, 5.0])
def test_losses_are_compared_at_each_models_own_temperature(sure: float) -> None:
    targets, made = torch.arange(60) % 3, torch.Generator().manual_seed(0)
    right = torch.nn.functional.one_hot(targets, 3).float()
    noise = torch.randn(60, 3, generator=made)
    old, new = outcome(right + noise), outcome(right * 2 + noise)
    lesson = Lesson([], [], targets[:0], targets, SingleLabel(("a", "b", "c")))
    plain = compare(new, old, lesson)
    scaled = compare(replace(new, valid=sure * new.valid), old, lesson)
    assert plain.loss_gain > 0.1
    assert scaled.loss_gain == pytest.approx(plain.loss_gain, abs=1e-4)
    assert compare(old, new, lesson).loss_gain == pytest.approx(-plain.loss_gain)


def test_a_loss_of_sets_and_of_numbers_is_compared_too() -> None:
    made = torch.Generator().manual_seed(0)
    numbers = torch.randn(40, generator=made).double()
    near, far = (numbers[:, None] + width * torch.randn(40, 1, generator=made) for width in (0.1, 1.0))
    lesson = Lesson([], [], numbers[:0], numbers, Number(0.0, 1.0))
    assert compare(outcome(near), outcome(far), lesson).worth_it
    sets = (torch.randn(40, 3, generator=made) > 0).float()
    close, wide = (sets - 0.5 + width * torch.randn(40, 3, generator=made) for width in (0.3, 3.0))
    lesson = Lesson([], [], sets[:0], sets, MultiLabel(("a", "b", "c")))
    assert compare(outcome(close), outcome(wide), lesson).worth_it
    assert compare(outcome(9 * close), outcome(close), lesson).loss_gain == pytest.approx(0, abs=1e-4)


def test_the_error_bound_of_no_errors_is_wilsons() -> None:
    assert error_upper_bound(0, 100) == pytest.approx(0.037, abs=0.001)
    assert error_upper_bound(0, 0) == 1.0


def test_a_temperature_makes_overconfident_logits_honest() -> None:
    generator = torch.Generator().manual_seed(0)
    honest = torch.randn(4000, 5, generator=generator) * 2
    targets = torch.multinomial(honest.softmax(1), 1, generator=generator).flatten()
    assert temperature(honest * 3, targets) == pytest.approx(3.0, rel=0.1)
    assert expected_calibration_error(honest, targets) < 0.03 < expected_calibration_error(honest * 3, targets)


def test_the_threshold_lets_five_percent_of_in_scope_rows_alarm() -> None:
    generator = torch.Generator().manual_seed(0)
    inside, outside = torch.randn(1000, 4, generator=generator) * 4, torch.randn(300, 4, generator=generator) * 0.2
    rule = scope_rule(inside, outside)
    from inference.engine.calibrate import SCORES

    assert (SCORES[rule.score](inside) < rule.threshold).double().mean().item() == pytest.approx(0.05, abs=0.002)


def test_every_row_is_in_an_epoch_once_and_the_order_is_fixed_by_seed_and_epoch() -> None:
    examples = Examples([[1] * (1 + at % 20) for at in range(103)], torch.zeros(103, dtype=torch.long))
    one, again, other = (
        [rows.tolist() for rows in epoch_order(examples, 8, seed=1, epoch=epoch)] for epoch in (0, 0, 1)
    )
    assert sorted(row for batch in one for row in batch) == list(range(103))
    assert one == again != other
    assert sorted(row for batch in by_length(examples, 8) for row in batch.rows.tolist()) == list(range(103))


@pytest.mark.parametrize(("pad_to", "width"), [(1, 11), (8, 16)])
def test_padding_is_masked_and_widths_are_multiples_of_what_the_machine_likes(pad_to: int, width: int) -> None:
    input_ids, mask = padded([[5, 6, 7], [9] * 11], pad_to)
    assert input_ids.shape == mask.shape == (2, width)
    assert input_ids[0].tolist() == [5, 6, 7, *[0] * (width - 3)]
    assert mask.sum(1).tolist() == [3, 11]


def test_the_learning_rate_warms_up_and_ends_at_zero() -> None:
    rates = [schedule(step, 100) for step in range(100)]
    assert max(rates) == 1.0
    assert rates[0] == pytest.approx(1 / 6)
    assert rates[-1] < 0.001


@pytest.mark.parametrize("value", [0.0, 0.035, 0.1, -1e9 / 7])
def test_a_target_that_never_changes_is_refused_though_its_mean_is_rounded(value: float) -> None:
    with pytest.raises(JobFault, match="give rows whose targets differ"):
        Number.of([value] * 1000)


@pytest.mark.parametrize("values", [[1.7e9, 1.7e9 + 1], [0.0, 1e-100], [-5.0, 5.0]])
def test_targets_that_differ_little_have_a_scale(values: list[float]) -> None:
    assert Number.of(values).deviation == pytest.approx((values[1] - values[0]) / 2)
