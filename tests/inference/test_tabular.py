"""Tables: columns as numbers, each learner by itself and beside the library it stands for, and a whole job of each."""

import csv
import json
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import duckdb
import numpy
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from tilth.contract import registry, sealing
from tilth.contract.learning import Rung
from tilth.contract.messages import EventKind, Grant, JobSpec, ServedBy, TrainingOptions
from tilth.contract.vertical import FieldKind, Metric, Schema, SchemaField, Vertical

from inference.engine.base_models import Base
from inference.engine.candidate import Lesson, Outcome, Session
from inference.engine.errors import BudgetReached, JobFault
from inference.engine.job import run_job
from inference.engine.objectives.metrics import BINARY
from inference.engine.objectives.number import Number
from inference.engine.objectives.single_label import SingleLabel
from inference.tabular.boosted import SHAPES, Boosted
from inference.tabular.columns import Columns, InputRefused
from inference.tabular.learner import Learner, TableCandidate
from inference.tabular.network import Networks
from inference.tabular.scorecard import BASE_POINTS, ScorecardModel
from inference.tabular.table import TableLesson
from inference.tabular.tuned import Tuned
from inference.tasks.tabular import LEARNERS, Tabular
from inference.wholes.folder import read_whole

KINDS = {"income": "number", "home": "category", "since": "date", "purpose": "text"}
METRICS = {"label": "auc", "number": "r2"}


def applicants(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows whose odds depend on income and home; one income in twelve is missing."""
    chance, made = random.Random(seed), []
    for at in range(count):
        income, home = chance.gauss(3000, 900), chance.choice(["own", "rent", "parents"])
        odds = 1.5 * (income < 2600) + (1.2 if home == "rent" else -0.6) + chance.gauss(0, 0.8)
        made.append(
            {
                "features": json.dumps({
                    "income": None if at % 12 == 0 else f"{income:.2f}", "home": home,
                    "since": f"20{chance.randint(10, 24)}-0{chance.randint(1, 9)}-15", "purpose": "for a roof",
                }),
                "bad": "yes" if odds > 0.5 else "no", "loss": 10 + 4 * odds,
                "split": {3: "validation", 7: "test"}.get(at % 10, "train"),
            }
        )  # fmt: skip
    return made


def face(target: FieldKind, offer: Any) -> Vertical:
    role = "bad" if target is FieldKind.LABEL else "loss"
    return Vertical(
        name="tiny", title="Tiny", description="For tests.",
        schema=Schema(fields=(SchemaField(role="features", kind=FieldKind.COLUMNS, title="Application"),
                              SchemaField(role=role, kind=target, title="Target"))),
        metrics=(Metric(name=METRICS[target.value], title="Score"),), base_models=(offer,),
        task="inference.tasks.tabular:Tabular",
    )  # fmt: skip


def lesson(task: Tabular, rows: list[dict[str, Any]]) -> tuple[TableLesson, dict[str, Any]]:
    parts = {split: [row for row in rows if row["split"] == split] for split in ("train", "validation", "test")}
    features = task.features(parts["train"], KINDS)
    train, validation = (task.targets(parts[split], features) for split in ("train", "validation"))
    made = Lesson(parts["train"], parts["validation"], train, validation, task.objective(features))
    return TableLesson(made, Columns.saved(features["columns"]), task.cells), features


class Nobody:
    """In the reporter's and the keeper's place."""

    step = 0

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def learned(learner: Learner, table: TableLesson, done: Mapping[str, Outcome] | None = None) -> Outcome:
    nobody: Any = Nobody()
    return TableCandidate(table, learner).learn(Session(nobody, nobody, done or {}))


def auc(table: TableLesson, outputs: torch.Tensor, targets: torch.Tensor) -> float:
    return float(roc_auc_score(targets.numpy(), (outputs[:, 1] - outputs[:, 0]).numpy()))


def test_columns_become_numbers_with_what_is_missing_and_unknown_marked() -> None:
    rows: list[dict[str, Any]] = [
        {"a": "1", "b": "x", "c": "1970-01-02"},
        {"a": "3", "b": "x"},
        {"b": "y"},
        {"a": "", "b": "y", "c": None},
    ]
    columns = Columns.of(rows, {"a": "number", "b": "category", "c": "date"})
    unseen: dict[str, Any] = {"a": 5, "b": "z"}
    assert columns.numbers([*rows, unseen])[:, 0].tolist()[:2] == [1.0, 3.0]
    missing = numpy.isnan(columns.numbers(rows)).tolist()
    assert missing == [[False, False], [False, True], [True, True], [True, True]]
    assert columns.codes([*rows, unseen])[:, 0].tolist() == [1, 1, 2, 2, 0]
    dense = columns.dense([unseen])[0]
    assert dense.tolist() == pytest.approx([3.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    assert Columns.saved(json.loads(json.dumps(columns.facts()))) == columns


def test_a_boolean_is_found_in_every_spelling_also_by_a_model_that_learned_another() -> None:
    rows: list[dict[str, Any]] = [{"flag": flag} for flag in ("True", "False", "true", "False")]
    asked: list[dict[str, Any]] = [{"flag": flag} for flag in (True, "True", "TRUE", "true", False, "False", "tRUE")]
    columns = Columns.of(rows, {"flag": "category"})
    assert columns.all[0].categories == ("false", "true")
    assert columns.codes(asked)[:, 0].tolist() == [2, 2, 2, 2, 1, 1, 0]
    old = Columns((replace(columns.all[0], categories=("False", "True")),))
    assert old.codes(asked)[:, 0].tolist() == [2, 2, 2, 2, 1, 1, 0]
    assert [each.sentence(asked[0]) for each in (columns, old)] == ["flag: true", "flag: True"]
    mixed = Columns((replace(columns.all[0], categories=("False", "True", "true")),))
    assert mixed.codes([{"flag": "True"}, {"flag": "true"}])[:, 0].tolist() == [2, 3]


def no_base() -> Base:
    raise AssertionError("a table's model needs no base")


@pytest.mark.parametrize(
    ("cells", "told"),
    [({"a": "many"}, "'a' holds 'many'; it must be a number"), ({"c": "soon"}, "'c' holds 'soon'; it must be a date")],
)
def test_a_cell_that_cannot_be_read_is_told_with_its_column_and_the_cure(cells: dict[str, str], told: str) -> None:
    columns = Columns.of([], {"a": "number", "c": "date"})
    with pytest.raises(InputRefused, match=told):
        columns.numbers([cells])


def test_every_row_is_in_one_fold_and_every_label_in_all(tiny_offer: Any) -> None:
    table, _ = lesson(Tabular(face(FieldKind.LABEL, tiny_offer)), applicants(200))
    fold = table.folds
    shares = [table.targets[fold == each].double().mean().item() for each in range(5)]
    assert sorted(set(fold.tolist())) == [0, 1, 2, 3, 4]
    assert max(shares) - min(shares) < 0.04


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in LEARNERS if name != "blend"])
def test_a_learner_finds_what_is_there_and_its_files_give_the_same_answers(name: str, tiny_offer: Any) -> None:
    task = Tabular(face(FieldKind.LABEL, tiny_offer))
    rows = applicants(400)
    table, features = lesson(task, rows)
    tests = [row for row in rows if row["split"] == "test"]
    outcome = learned(LEARNERS[name], table)
    outputs = outcome.model.outputs(tests)
    assert auc(table, outputs, task.targets(tests, features)) > 0.85
    assert outcome.crossed is not None
    assert 0.8 < auc(table, outcome.crossed, table.lesson.train_targets) < 0.99
    again = task.reopen(name, outcome.model.files(), features, no_base).answer(tests).outputs
    torch.testing.assert_close(again.float(), outputs, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_cross_fitted_outputs_know_nothing_of_their_own_row(tiny_offer: Any) -> None:
    """Labels drawn by lot: whoever has seen a row's own label scores above chance."""
    task = Tabular(face(FieldKind.LABEL, tiny_offer))
    chance = random.Random(1)
    rows = [{**row, "bad": chance.choice(["yes", "no"])} for row in applicants(400)]
    table, _ = lesson(task, rows)
    done: dict[str, Outcome] = {}
    for name, learner in LEARNERS.items():
        done[name] = learned(learner, table, done)
        crossed = done[name].crossed
        assert crossed is not None
        assert auc(table, crossed, table.lesson.train_targets) < 0.62, name
    seen = done["forest"].model.outputs(table.lesson.train)
    assert auc(table, seen, table.lesson.train_targets) > 0.9


def _crossed(outcome: Outcome) -> torch.Tensor:
    assert outcome.crossed is not None
    return outcome.crossed


@pytest.mark.slow
def test_a_blend_is_as_good_as_its_parts_and_carries_them_in_its_files(tiny_offer: Any) -> None:
    task = Tabular(face(FieldKind.LABEL, tiny_offer))
    rows = applicants(400)
    table, features = lesson(task, rows)
    done: dict[str, Outcome] = {}
    for name in ("linear", "forest", "blend"):
        done[name] = learned(LEARNERS[name], table, done)
    objective = table.objective
    targets = table.lesson.train_targets
    scores = {name: objective.score(_crossed(each), targets) for name, each in done.items()}
    assert scores["blend"] > max(scores["linear"], scores["forest"]) - 0.005
    files = done["blend"].model.files()
    assert sorted(files) == ["blend.json", "forest.forest.safetensors", "linear.linear.safetensors"]
    tests = [row for row in rows if row["split"] == "test"]
    torch.testing.assert_close(
        task.reopen("blend", files, features, no_base).answer(tests).outputs.float(),
        done["blend"].model.outputs(tests),
    )


@pytest.mark.slow
def test_the_forest_is_scikit_learns_and_the_linear_model_too(tiny_offer: Any) -> None:
    task = Tabular(face(FieldKind.LABEL, tiny_offer))
    table, _ = lesson(task, applicants(300))
    dense, targets = table.dense.numpy(), table.targets.numpy()
    theirs = RandomForestClassifier(300, min_samples_leaf=3, random_state=0).fit(dense, targets).predict_proba(dense)
    model = learned(LEARNERS["forest"], table).model
    rows = [*table.lesson.train, *table.lesson.validation]
    torch.testing.assert_close(
        model.outputs(rows).exp(), torch.from_numpy(theirs).float().clamp(min=0.005), rtol=1e-4, atol=1e-4
    )
    outcome = learned(LEARNERS["linear"], table)
    plain = LogisticRegression(C=2 * outcome.facts["strength"], max_iter=5000).fit(dense, targets)
    odds = outcome.model.outputs(rows)
    gap = (odds[:, 1] - odds[:, 0]).numpy() - plain.decision_function(dense)
    # Under the penalty two columns of weights of ±w/2 weigh half of one of w.
    assert numpy.abs(gap).max() < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LEARNERS.keys() - {"blend"}))
def test_a_rare_label_is_answered_more_often_when_all_labels_weigh_the_same(name: str, tiny_offer: Any) -> None:
    task = Tabular(face(FieldKind.LABEL, tiny_offer))
    rare = [row for at, row in enumerate(applicants(500)) if row["bad"] == "no" or at % 4 == 0]
    table, _ = lesson(task, rare)
    fair = replace(table.lesson, objective=table.objective.learned_by(None, table.lesson.train_targets))
    shares = [
        learned(LEARNERS[name], each).valid.softmax(1)[:, 1].mean().item()
        for each in (table, TableLesson(fair, table.columns, task.cells))
    ]
    assert shares[1] > 1.2 * shares[0]


def test_the_scorecards_points_add_up_to_its_odds(tiny_offer: Any) -> None:
    task = Tabular(face(FieldKind.LABEL, tiny_offer))
    table, _ = lesson(task, applicants(400))
    nobody: Any = Nobody()
    fitted = LEARNERS["scorecard"].fit(table, Session(nobody, nobody, {}))
    card = fitted.model
    assert isinstance(card, ScorecardModel)
    points = card.points()
    cells = table.rows[:50]
    odds = card.of(cells)
    for row, told in zip(cells, (odds[:, 1] - odds[:, 0]).tolist(), strict=True):
        places = {bins.name: _place(card, bins, row) for bins in card.bins}
        score = sum(points[name][place] for name, place in places.items())
        # A score of 600 means 50 : 1 for the first label, 20 points double it; each column's points are rounded.
        assert score == pytest.approx(BASE_POINTS + (-told - numpy.log(50)) * 20 / numpy.log(2), abs=0.5 * len(places))


def _place(card: ScorecardModel, bins: Any, row: Mapping[str, Any]) -> int:
    column = next(each for each in card.columns.all if each.name == bins.name)
    if column.kind == "category":
        return 1 + column.categories.index(str(row[bins.name]))
    value = card.columns.numbers([row])[0, card.columns.measured.index(column)]
    return 0 if numpy.isnan(value) else 1 + int(numpy.searchsorted(bins.edges, value))


def test_a_text_that_is_no_booster_is_no_model(tiny_offer: Any) -> None:
    with pytest.raises(ValueError, match="no booster's text"):
        LEARNERS["boosted"].reopen(Columns(()), 2, {"booster.0.txt": b"tree\nversion=v4\nnum_class=many\n"})


def test_ks_gini_and_auc_are_those_of_the_definition() -> None:
    targets = torch.tensor([0, 0, 1, 1, 0, 1])
    outputs = torch.stack([torch.zeros(6), torch.tensor([0.1, 0.4, 0.35, 0.8, 0.2, 0.4])], dim=1)
    assert BINARY["auc"](outputs, targets) == pytest.approx(roc_auc_score(targets, outputs[:, 1]))
    assert BINARY["gini"](outputs, targets) == pytest.approx(2 * roc_auc_score(targets, outputs[:, 1]) - 1)
    # Above 0.35: 3 of 3 bad, 1 of 3 good.
    assert BINARY["ks"](outputs, targets) == pytest.approx(2 / 3)
    assert BINARY["ks"](torch.zeros(6, 2), targets) == 0.0


@pytest.mark.parametrize("name", ["auc", "gini", "ks"])
def test_resampled_scores_are_those_of_each_draw_alone(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(2, (40,), generator=generator)
    outputs = torch.stack([torch.zeros(40), torch.randint(8, (40,), generator=generator).float()], dim=1)
    draws = torch.randint(40, (30, 40), generator=generator)
    found = SingleLabel(("a", "b"), name).resampled(outputs, targets, draws)
    alone = [BINARY[name](outputs[draw], targets[draw]) for draw in draws]
    assert found.tolist() == pytest.approx(alone, abs=1e-6)


def test_a_number_is_answered_with_an_interval_that_holds_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(4000, generator=generator).double() * 5 + 100
    outputs = ((targets + torch.randn(4000, generator=generator) * 2 - 100) / 5)[:, None]
    objective = Number.of(targets.tolist())
    settled = objective.calibrate(outputs[:2000], targets[:2000])
    judged = objective.judge(outputs[2000:], targets[2000:], settled)
    assert judged.metrics["coverage"] == pytest.approx(0.9, abs=0.02)
    assert judged.metrics["rmse"] == pytest.approx(2.0, rel=0.05)
    answer = objective.answer(outputs[:1], settled)[0]
    assert answer.interval is not None
    assert answer.interval[0] < float(str(answer.output)) < answer.interval[1]


def test_a_target_that_never_changes_is_refused_by_its_value() -> None:
    with pytest.raises(JobFault, match=r"all 3 training rows is 7\.0; give rows whose targets differ"):
        Number.of([7.0, 7.0, 7.0])


def test_three_labels_are_no_two_for_a_metric_of_two() -> None:
    with pytest.raises(JobFault, match="auc judges two labels; the training rows hold 3"):
        SingleLabel(("a", "b", "c"), "auc")


class Attempts:
    """Whole jobs on a table."""

    def __init__(self, place: Any, base: Base) -> None:
        self.place, self.base = place, base

    def run(
        self, attempt: int, rows: list[dict[str, Any]], *, stop: Any = lambda: None, resume: str = "", **wish: Any
    ) -> EventKind:
        spec = JobSpec(
            job="j", attempt=attempt, flow="f", vertical="tiny", base_model="tiny", rows=self._frozen(rows),
            max_device_ms=600_000, output=self.place.grant(f"{attempt}/", "write"),
            resume=self.place.grant(resume) if resume else None,
            options=TrainingOptions(**{"highest_rung": Rung.PROBE, "minimum_gain": 0.0, **wish}),
        )  # fmt: skip
        return run_job(spec, storage=self.place.storage, stop=stop, base=lambda _: self.base, heartbeat_s=5)

    def last(self, kind: EventKind, attempt: int = 1) -> dict[str, Any]:
        return dict([event for event in self.place.events(str(attempt)) if event.kind is kind][-1].data)

    def _frozen(self, rows: list[dict[str, Any]]) -> Grant:
        lines = self.place.root / "rows.csv"
        with lines.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["line", *rows[0]])
            writer.writeheader()
            writer.writerows({"line": at, **row} for at, row in enumerate(rows, 1))
        target = self.place.root / "rows.parquet"
        duckdb.execute(
            f"COPY (SELECT * FROM read_csv('{lines}', types={{'features': 'VARCHAR'}})) TO '{target}'"
            f" (FORMAT parquet, KV_METADATA {{kinds: '{json.dumps(KINDS)}'}})"
        )
        content = target.read_bytes()
        target.write_bytes(sealing.seal(content, self.place.sealed_with))
        granted: Grant = self.place.grant("rows.parquet")
        return granted


@pytest.fixture
def table(tiny_offer: Any) -> TableLesson:
    return lesson(Tabular(face(FieldKind.LABEL, tiny_offer)), applicants(120))[0]


@pytest.mark.slow
def test_a_searched_learner_tries_its_usual_parameters_first_and_leaves_the_best(table: TableLesson) -> None:
    nobody: Any = Nobody()
    session = Session(nobody, nobody, {})
    found, usual = Tuned(Boosted(), 6).fit(table, session), Boosted().fit(table, session)
    board = found.facts["trials"]
    tried = {line["trial"]: line["params"] for line in board}
    assert [tried[number] for number in range(len(SHAPES))] == list(SHAPES)
    assert sorted(tried) == list(range(6))
    best = board[0]
    assert best["score"] == max(line["score"] for line in board)
    assert all(line["interval"][0] <= line["score"] <= line["interval"][1] for line in board)
    assert {name: found.facts[name] for name in best["params"]} == best["params"]
    assert table.objective.score(found.crossed, table.targets) == pytest.approx(best["score"], abs=1e-6)
    assert best["score"] >= round(table.objective.score(usual.crossed, table.targets), 6)
    again = Tuned(Boosted(), 6).fit(table, session).facts["trials"]
    assert [line["params"] for line in again] == [line["params"] for line in board]


def test_a_network_of_another_width_is_opened_again(table: TableLesson) -> None:
    learner = Networks().having({"hidden": 32, "dropout": 0.1, "learning_rate": 1e-2, "weight_decay": 0.01})
    model = learned(learner, table).model
    again = LEARNERS["network"].reopen(table.columns, 2, model.files())
    assert again.of(list(table.rows[:20])).equal(model.outputs(table.lesson.train[:20]))


class Ending(Nobody):
    """A reporter whose budget ends at the so-manieth question."""

    def __init__(self, questions: int) -> None:
        self.questions = questions

    def check(self, step: int) -> None:
        self.questions -= 1
        if self.questions < 0:
            raise BudgetReached("used up")


@pytest.mark.slow
def test_a_budget_that_ends_in_a_search_of_a_table_leaves_the_best_so_far(table: TableLesson) -> None:
    nobody: Any = Nobody()
    reporter: Any = Ending(800)
    found = Tuned(Boosted(), 64).fit(table, Session(reporter, nobody, {}))
    assert 0 < len(found.facts["trials"]) < 64
    none_left: Any = Ending(0)
    with pytest.raises(BudgetReached):
        Tuned(Boosted(), 64).fit(table, Session(none_left, nobody, {}))


def test_trials_search_the_learners_of_a_table_that_have_what_may_vary(tiny: Base, tiny_offer: Any) -> None:
    task = Tabular(face(FieldKind.LABEL, tiny_offer))
    made, features = lesson(task, applicants(60))
    for trials, wanted in ((None, set[str]()), (8, {"boosted", "network"})):
        found = task.candidates(made.lesson, features, [tiny], TrainingOptions(trials=trials))
        tables = [each for each in found if isinstance(each, TableCandidate)]
        assert {each.name for each in tables if isinstance(each.learner, Tuned)} == wanted
        assert [each.name for each in tables] == list(LEARNERS)


@pytest.mark.slow
def test_a_job_that_searches_a_table_leaves_a_model_that_answers(
    place: Any, tiny: Base, tiny_offer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "verticals", lambda: {"tiny": face(FieldKind.LABEL, tiny_offer)})
    attempts = Attempts(place, tiny)
    assert attempts.run(1, applicants(200), trials=4) is EventKind.SUCCEEDED
    told = attempts.last(EventKind.SUCCEEDED)
    board = {line["name"]: line for line in told["report"]["leaderboard"]}
    assert {name: len(line["trials"]) for name, line in board.items() if "trials" in line} == {
        "boosted": 4, "network": 4,
    }  # fmt: skip
    folder = read_whole(place.folder("1/model/"))
    assert (folder.kind, folder.digest) == (told["report"]["rung"], told["digest"])


@pytest.mark.slow
@pytest.mark.parametrize("target", [FieldKind.LABEL, FieldKind.NUMBER])
def test_a_job_on_a_table_leaves_a_whole_model_and_a_leaderboard(
    place: Any, tiny: Base, tiny_offer: Any, monkeypatch: pytest.MonkeyPatch, target: FieldKind
) -> None:
    monkeypatch.setattr(registry, "verticals", lambda: {"tiny": face(target, tiny_offer)})
    attempts = Attempts(place, tiny)
    assert attempts.run(1, applicants(400)) is EventKind.SUCCEEDED
    told = attempts.last(EventKind.SUCCEEDED)
    board = {line["name"]: line for line in told["report"]["leaderboard"]}
    wanted = [name for name in LEARNERS if target is FieldKind.LABEL or name != "scorecard"]
    assert list(board) == [*wanted, "probe"]
    assert all(line["interval"][0] <= line["score"] <= line["interval"][1] for line in board.values())
    assert board["linear"]["judged_rows"] > 300
    chosen = told["report"]["rung"]
    assert board[chosen]["score"] >= max(line["score"] for line in board.values()) - 0.01
    folder = read_whole(place.folder("1/model/"))
    assert (folder.kind, folder.digest) == (chosen, told["digest"])
    assert json.loads(place.folder("1/model/")["MANIFEST.json"])["served_by"] == ServedBy.WHOLE
    metric = METRICS[target.value]
    assert told["metrics"][metric] > (0.85 if metric == "auc" else 0.4)
    assert told["report"]["baselines"]["majority"] < told["metrics"][metric]


@pytest.mark.slow
def test_a_text_encoder_on_rows_is_an_adapter_and_learns_too(
    place: Any, tiny: Base, tiny_offer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "verticals", lambda: {"tiny": face(FieldKind.LABEL, tiny_offer)})
    attempts = Attempts(place, tiny)
    kept = place.root / "1" / "checkpoints"
    wish: dict[str, Any] = {"highest_rung": Rung.LORA, "epochs": 1, "batch_size": 64, "rank": 2}
    kind = attempts.run(1, applicants(100), stop=lambda: "pause" if kept.exists() else None, **wish)
    assert kind is EventKind.PAUSED
    resume = f"1/{attempts.last(EventKind.CHECKPOINT)['path']}"
    assert attempts.run(2, applicants(100), resume=resume, **wish) is EventKind.SUCCEEDED
    board = attempts.last(EventKind.SUCCEEDED, 2)["report"]["leaderboard"]
    assert [line["name"] for line in board][-2:] == ["probe", "lora"]
    assert all("score" in line for line in board)
