"""Tables at their edges: labels and groups too few for five folds, columns that say little, numbers beyond fp32."""

import time
import tracemalloc
import weakref
from collections.abc import Sequence
from datetime import date
from typing import Any, cast

import numpy
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from tilth.contract.messages import Row, TrainingOptions
from tilth.contract.vertical import FieldKind
from torch import Tensor

from inference.engine.base_models import Base
from inference.engine.candidate import Lesson, Session
from inference.engine.errors import BudgetReached, JobFault
from inference.engine.objectives.number import Number
from inference.engine.objectives.objective import Objective
from inference.engine.objectives.single_label import SingleLabel
from inference.engine.preflight import plan
from inference.tabular import boosted, forest, network
from inference.tabular.boosted import SHAPES, Boosted, BoostedModel
from inference.tabular.columns import Columns
from inference.tabular.forest import Forest, ForestModel
from inference.tabular.learner import Learner, TableCandidate
from inference.tabular.table import TableLesson
from inference.tasks.tabular import LEARNERS, Tabular
from tests.inference.test_tabular import Ending, Nobody, face

PARTS = [learner for name, learner in LEARNERS.items() if name != "blend"]
BINARY = SingleLabel(("good", "bad"), "auc")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forest, "TREES", 8)
    monkeypatch.setattr(forest, "BLOCK", 5)
    monkeypatch.setattr(boosted, "MOST_ROUNDS", 20)
    monkeypatch.setattr(network, "EPOCHS", 2)


def table(rows: Sequence[dict[str, Any]], targets: Tensor, objective: Objective, kinds: dict[str, str]) -> TableLesson:
    """All rows in training."""
    return TableLesson(Lesson(rows, [], targets, targets[:0], objective), Columns.of(rows, kinds), dict)


def noise(targets: Tensor, groups: Sequence[int | None], objective: Objective = BINARY) -> TableLesson:
    """One number that says nothing of the target."""
    values = torch.randn(len(targets), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [{"a": value, "group": group} for value, group in zip(values, groups, strict=True)]
    return table(rows, targets, objective, {"a": "number"})


def session(reporter: Nobody | None = None) -> Session:
    nobody: Any = Nobody()
    return Session(cast("Any", reporter or nobody), nobody, {})


@pytest.mark.parametrize("learner", PARTS, ids=lambda each: each.name)
def test_a_fold_that_learns_from_one_label_alone_scores_no_better_than_the_others(learner: Learner) -> None:
    targets = (torch.arange(80) < 8).long()
    made = noise(targets, [0] * 8 + [None] * 72)
    found = learner.fit(made, session()).crossed
    assert found.isfinite().all()
    assert BINARY.score(found, targets) < 0.6


def test_a_forest_of_three_labels_may_lack_one_in_a_fold() -> None:
    targets = torch.tensor([2] + [0, 1] * 20)
    found = Forest().fit(noise(targets, [None] * 41, SingleLabel(("a", "b", "c"))), session())
    assert found.crossed.shape == (41, 3)
    assert found.crossed[0].exp().tolist()[2] == pytest.approx(forest.SMALLEST)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("learner", PARTS, ids=lambda each: each.name)
def test_few_groups_are_enough(learner: Learner, groups: int) -> None:
    targets = torch.arange(80) // 4 % 2
    found = learner.fit(noise(targets, [at % groups for at in range(80)]), session())
    assert found.crossed.isfinite().all()
    assert (found.crossed != 0).any(1).all(), "each row is judged"
    assert found.model.of([{"a": 0.5}]).shape == (1, 2)


@pytest.mark.parametrize("values", [[0.035] * 300, [1e200, -1e200] * 150, [1e-50, -1e-50] * 150, ["inf", "1"] * 150])
def test_a_number_never_leaves_what_fp32_holds(values: list[Any]) -> None:
    columns = Columns.of([{"a": value} for value in values], {"a": "number"})
    dense = columns.dense([{"a": value} for value in (*values, 0.036, 1e300, -1e300)])
    assert dense.isfinite().all()
    assert dense[:-2].abs().max() <= 2
    assert columns.dense([{"a": "nan"}, {}]).tolist() == [[0.0, 1.0]] * 2


@pytest.mark.parametrize("learner", PARTS, ids=lambda each: each.name)
def test_numbers_beyond_fp32_are_learned_from(learner: Learner) -> None:
    targets = torch.arange(80) // 4 % 2
    rows = [{"a": 1.7e308 if at % 2 else -1e200, "b": at} for at in range(80)]
    found = learner.fit(table(rows, targets, BINARY, {"a": "number", "b": "number"}), session())
    assert found.crossed.isfinite().all()
    assert found.model.of([{"a": 1e300, "b": -1e300}]).isfinite().all()


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_a_date_is_the_same_number_wherever_it_is_read(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        columns = Columns.of([], {"a": "date"})
        told = ("0001-01-01", "1970-01-02", "2026-12-31T12:00:00+06:00", "9999-12-31")
        days = columns.numbers([{"a": each} for each in told])[:, 0].tolist()
    finally:
        monkeypatch.undo()
        time.tzset()
    epoch = date(1970, 1, 1)
    last = (date(9999, 12, 31) - epoch).days
    assert days == [(date.min - epoch).days, 1, (date(2026, 12, 31) - epoch).days + 0.25, last]


def test_a_table_of_texts_alone_is_left_to_the_encoder(tiny: Base, tiny_offer: Any) -> None:
    task = Tabular(face(FieldKind.LABEL, tiny_offer))
    rows: list[Row] = [{"features": {"note": f"a note {at}", "code": str(at)}, "bad": "ny"[at % 2]} for at in range(10)]
    for kinds, first in (({"note": "text"}, "probe"), ({"note": "text", "code": "category"}, "linear")):
        features = task.features(rows, kinds)
        targets = task.targets(rows, features)
        lesson = Lesson(rows, rows[:0], targets, targets[:0], task.objective(features))
        assert task.candidates(lesson, features, [tiny], TrainingOptions())[0].name == first


@pytest.mark.parametrize("learner", PARTS, ids=lambda each: each.name)
def test_a_column_without_a_known_category_is_no_bug(learner: Learner) -> None:
    rows = [{"code": str(at)} for at in range(60)]
    found = learner.fit(table(rows, torch.arange(60) % 2, BINARY, {"code": "category"}), session())
    assert found.crossed.isfinite().all()


@pytest.mark.parametrize("objective", [BINARY, SingleLabel(tuple("abcdefgh")), Number(0.0, 1.0)], ids=["2", "8", "n"])
def test_the_preflight_counts_what_a_forest_takes(objective: Objective) -> None:
    """Of noise, in which trees grow largest."""
    chance = torch.Generator().manual_seed(0)
    targets = torch.randn(2000, generator=chance).double()
    if isinstance(objective, SingleLabel):
        targets = torch.randint(objective.width, (2000,), generator=chance)
    made = noise(targets, [None] * 2000, objective)
    told = TableCandidate(made, Forest()).need(0) - TableCandidate(made, LEARNERS["linear"]).need(0)
    grower = forest._grower(isinstance(objective, SingleLabel), 0).set_params(n_estimators=forest.TREES)
    grown = grower.fit(made.dense.numpy(), targets.numpy()).estimators_
    tracemalloc.start()
    forest._joined([forest._tree(each.tree_, slice(None), objective.width) for each in grown])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.5 * told < peak < told


def test_no_more_than_one_forest_of_the_folds_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    before = list[weakref.ref[ForestModel]]()

    def model(*facts: Any) -> ForestModel:
        assert not any(each() for each in before)
        found = ForestModel(*facts)
        before.append(weakref.ref(found))
        return found

    monkeypatch.setattr(forest, "ForestModel", model)
    Forest().fit(noise(torch.arange(60) // 3 % 2, [None] * 60), session())
    assert len(before) == 6


def test_many_rows_go_through_the_trees_in_parts() -> None:
    stump = {
        "first": numpy.arange(0, 900, 3), "feature": numpy.tile([0, -1, -1], 300),
        "threshold": numpy.zeros(900), "left": numpy.arange(900) + 1, "right": numpy.arange(900) + 2,
        "value": numpy.tile(numpy.array([[0.5, 0.5], [1.0, 0.0], [0.25, 0.75]], dtype=numpy.float32), (300, 1)),
    }  # fmt: skip
    dense = torch.tensor([[-1.0], [1.0]]).repeat(4000, 1)
    tracemalloc.start()
    found = ForestModel(Columns(()), stump, labels=True).grown(dense)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    torch.testing.assert_close(found.exp(), torch.tensor([[1.0, 0.005], [0.25, 0.75]]).repeat(4000, 1))
    assert peak < 32 << 20


def test_a_forest_grown_in_blocks_is_the_one_grown_at_once() -> None:
    made = noise(torch.arange(200) // 3 % 2, [None] * 200)
    grown = RandomForestClassifier(8, min_samples_leaf=3, random_state=0).fit(made.dense.numpy(), made.targets.numpy())
    theirs = torch.from_numpy(grown.predict_proba(made.dense.numpy())).float().clamp(min=forest.SMALLEST)
    torch.testing.assert_close(Forest().fit(made, session()).model.of(made.rows).exp(), theirs)


@pytest.mark.parametrize("name", ["forest", "boosted"])
def test_a_budget_that_ends_in_the_midst_of_a_fit_ends_the_fit(name: str) -> None:
    with pytest.raises(BudgetReached):
        LEARNERS[name].fit(noise(torch.arange(80) // 4 % 2, [None] * 80), session(Ending(6)))


def test_boosters_that_never_saw_a_label_answer_for_nobody() -> None:
    targets = torch.cat([torch.zeros(392), torch.ones(8)]).long()
    found = noise(targets, [*range(392), *[1000] * 8])
    fitted = Boosted(usual=SHAPES[:1]).fit(found, session())
    assert isinstance(fitted.model, BoostedModel)
    assert len(fitted.model.boosters) == 4
    odds = fitted.model.of(found.rows)
    assert -8 < float((odds[:, 1] - odds[:, 0]).mean()) < -2


def test_a_forest_that_does_not_fit_is_left_out_and_the_job_goes_on() -> None:
    lesson = noise(torch.arange(400) % 2, [None] * 400)
    candidates = [TableCandidate(lesson, LEARNERS[name]) for name in ("linear", "forest", "boosted")]
    short = candidates[1].need(10) - 1
    assert [each.name for each in plan(candidates, 10, 0, short).candidates] == ["linear", "boosted"]
    assert plan(candidates, 10, 0, short + 1).candidates == candidates
    with pytest.raises(JobFault, match="the linear model"):
        plan(candidates, 10, 0, 1)
