"""Two views of a row: what they lack, that they do not depend on how a step is taken, and what they are worth."""

import copy
from dataclasses import replace

import pytest
import torch
from tilth.contract.learning import Method
from tilth.contract.messages import TrainingOptions
from torch import nn
from torch.nn import functional

from inference.engine.adapting.classifier import Classifier, evaluate_logits
from inference.engine.adapting.methods import METHODS
from inference.engine.adapting.recipe import CONSISTENCY, Recipe
from inference.engine.adapting.steps import Run, losses
from inference.engine.adapting.views import RATE, Views
from inference.engine.base_models import Base
from inference.engine.batches import Batch
from inference.engine.heads import Head
from inference.engine.objectives.multi_label import MultiLabel
from inference.engine.objectives.number import Number
from inference.engine.objectives.objective import Objective
from inference.engine.objectives.single_label import SingleLabel
from inference.engine.task import Examples

RECIPE = Recipe(rank=4, epochs=1, batch_size=8, rate=1.0, seed=3, consistency=2.0)
ABC = SingleLabel(("a", "b", "c"))
ROWS = 8


@pytest.fixture(autouse=True)
def _fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.engine.precision.has_fast_bf16", lambda: False)


def batch() -> Batch:
    made = torch.Generator().manual_seed(0)
    mask = (torch.arange(10) < torch.randint(3, 11, (ROWS, 1), generator=made)).long()
    return Batch(
        torch.arange(ROWS), torch.randint(5, 25, (ROWS, 10), generator=made) * mask, mask, torch.arange(ROWS) % 3
    )


def run_of(base: Base, recipe: Recipe = RECIPE, rows_at_once: int = ROWS) -> Run:
    torch.manual_seed(1)
    head = Head(torch.randn(3, base.hidden_size), torch.zeros(3))
    model = Classifier(base, head, METHODS[Method.LORA], recipe)
    return Run(model, recipe, ABC, steps=10, rows_at_once=rows_at_once)


def test_a_view_lacks_features_of_all_tokens_and_no_two_views_or_steps_lack_the_same() -> None:
    site = nn.Sequential(nn.Dropout(0.3))
    views, ones = Views.within(site, wanted=True), torch.ones(2 * ROWS, 5, 400)
    with views.drawn(0, 7, slice(0, ROWS), ROWS):
        found = site(ones)
    assert found.equal(found[:, :1].expand_as(found))
    assert found.unique().tolist() == [0.0, pytest.approx(1 / (1 - RATE))]
    assert (found == 0).float().mean().item() == pytest.approx(RATE, abs=0.02)
    patterns = {tuple(row.tolist()) for row in (found[:, 0] == 0)}
    assert len(patterns) == 2 * ROWS
    with views.drawn(0, 8, slice(0, ROWS), ROWS):
        assert not site(ones).equal(found)
    with views.drawn(0, 7, slice(0, ROWS), ROWS):
        assert site(ones).equal(found)
    assert site(ones).equal(ones)


def test_a_step_in_parts_is_the_step_as_a_whole(tiny: Base) -> None:
    whole, parts = run_of(tiny), run_of(tiny, rows_at_once=3)
    for step in range(3):
        assert whole.step(batch(), step) == pytest.approx(parts.step(batch(), step), abs=1e-5)
    for name, tensor in whole.model.learned().items():
        torch.testing.assert_close(tensor, parts.model.learned()[name], rtol=0, atol=1e-5)


def test_the_base_and_what_is_evaluated_lack_nothing(tiny: Base) -> None:
    before = copy.deepcopy(tiny.model)
    run = run_of(tiny)
    assert run.model.views.count == 2
    run.step(batch(), 0)
    ids, examples = batch(), Examples([[5, 6, 7], [8, 9]], torch.zeros(2, dtype=torch.long))
    assert evaluate_logits(run.model, examples).equal(evaluate_logits(run.model, examples))
    assert [type(part) for part in tiny.model.modules()] == [type(part) for part in before.modules()]
    inputs = {"input_ids": ids.input_ids, "attention_mask": ids.attention_mask}
    device = next(before.parameters()).device
    moved = {name: tensor.to(device) for name, tensor in inputs.items()}
    assert tiny.model(**moved).last_hidden_state.equal(before(**moved).last_hidden_state)


def test_without_consistency_or_a_place_for_it_each_row_is_seen_once(tiny: Base) -> None:
    plain, seen = run_of(tiny, replace(RECIPE, consistency=0.0)), list[int]()
    assert plain.model.views.count == 1
    for part in list(tiny.model.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.Dropout):
                setattr(part, name, nn.Identity())
    without = run_of(tiny)
    assert without.model.views.count == 1
    without.model.encoder.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    assert without.step(batch(), 0) == pytest.approx(plain.step(batch(), 0), abs=1e-6)
    assert seen == [ROWS]


@pytest.mark.parametrize(
    "objective", [ABC, MultiLabel(("a", "b", "c")), Number(0.0, 1.0)], ids=lambda each: type(each).__name__
)
def test_equal_views_are_not_apart_and_the_loss_is_then_the_objectives_own(objective: Objective) -> None:
    outputs = torch.randn(4, objective.width, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(4.0) % 3
    if isinstance(objective, SingleLabel):
        targets = targets.long()
    if isinstance(objective, MultiLabel):
        targets = functional.one_hot(targets.long(), 3).float()
    assert objective.apart(outputs, outputs).equal(torch.zeros(4))
    both = losses(objective, RECIPE, torch.cat([outputs, outputs]), targets)
    torch.testing.assert_close(both, losses(objective, RECIPE, outputs, targets))
    apart = losses(objective, RECIPE, torch.cat([outputs, outputs + torch.randn(4, objective.width)]), targets)
    assert (apart > 0).all()


def test_views_are_apart_by_the_mean_of_both_divergences() -> None:
    one, other = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).unbind()
    ways = [(one, other), (other, one)]
    wanted = [
        functional.kl_div(a.log_softmax(1), b.log_softmax(1), log_target=True, reduction="none").sum(1) for a, b in ways
    ]
    torch.testing.assert_close(ABC.apart(one, other), (wanted[0] + wanted[1]) / 2)
    odds = torch.distributions.Bernoulli
    many = [torch.distributions.kl_divergence(odds(logits=a.double()), odds(logits=b.double())).sum(1) for a, b in ways]
    found = MultiLabel(("a", "b", "c")).apart(one.double(), other.double())
    torch.testing.assert_close(found, (many[0] + many[1]) / 2)
    normal = torch.distributions.Normal
    width = [torch.distributions.kl_divergence(normal(a[:, 0], 1.0), normal(b[:, 0], 1.0)) for a, b in ways]
    torch.testing.assert_close(Number(5.0, 2.0).apart(one[:, :1], other[:, :1]), (width[0] + width[1]) / 2)


def test_a_job_sees_two_views_unless_it_says_otherwise() -> None:
    assert Recipe.settled(TrainingOptions(), 100).consistency == CONSISTENCY
    assert Recipe.settled(TrainingOptions(consistency=0), 100).views == 1
    assert Recipe.settled(TrainingOptions(consistency=0.5), 100).consistency == 0.5
