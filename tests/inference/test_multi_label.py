"""Several labels of a row: metrics as scikit-learn has them, thresholds by validation, a whole job on a tiny base."""

import json
import math
from typing import Any

import pytest
import torch
from sklearn import metrics
from tilth.contract import registry
from tilth.contract.errors import VerticalError
from tilth.contract.learning import Loss, Rung
from tilth.contract.messages import EventKind, JobSpec, TrainingOptions
from tilth.contract.vertical import FieldKind, Metric, Schema, SchemaField, Vertical
from torch import Tensor

from inference.adapters.folder import read_folder
from inference.engine.base_models import Base
from inference.engine.candidate import Lesson, Outcome
from inference.engine.data import Splits
from inference.engine.errors import JobFault
from inference.engine.evaluate import interval
from inference.engine.finish import finish
from inference.engine.job import run_job
from inference.engine.ladder import Climbed
from inference.engine.objectives.multi_label import MultiLabel
from inference.engine.objectives.sets import CHOOSING, SETS, resampled, thresholds
from inference.engine.task import load_task

WORDS = {"card": "lost card", "refund": "money back", "parcel": "late parcel"}


def drawn(rows: int, labels: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(log-odds, targets) that agree more often than not; outputs repeat, rows with no label are among them."""
    chance = torch.Generator().manual_seed(seed)
    targets = (torch.rand(rows, labels, generator=chance) < 0.3).float()
    outputs = (targets * 2 - 1) + 1.5 * torch.randn(rows, labels, generator=chance)
    return (outputs * 4).round() / 4, targets


@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_those_of_scikit_learn(seed: int) -> None:
    outputs, targets = drawn(200, 6, seed)
    said, there = (outputs >= 0).numpy(), targets.numpy()
    expected = {
        "micro_f1": metrics.f1_score(there, said, average="micro"),
        "macro_f1": metrics.f1_score(there, said, average="macro"),
        "subset_accuracy": metrics.accuracy_score(there, said),
        "lrap": metrics.label_ranking_average_precision_score(there, outputs.numpy()),
        "mean_average_precision": metrics.average_precision_score(there, outputs.numpy(), average="macro"),
        "loss": metrics.log_loss(there.ravel(), outputs.sigmoid().double().numpy().ravel()),
    }
    assert {name: metric(outputs, targets) for name, metric in SETS.items()} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", CHOOSING)
def test_a_resample_is_the_metric_of_the_drawn_rows(name: str) -> None:
    outputs, targets = drawn(50, 5)
    targets[:, 4], outputs[:, 4] = 0.0, -1.0
    draws = torch.randint(50, (20, 50), generator=torch.Generator().manual_seed(1))
    one_by_one = [SETS[name](outputs[draw], targets[draw]) for draw in draws]
    assert resampled(name, outputs, targets, draws).tolist() == pytest.approx(one_by_one)
    objective = MultiLabel(tuple("abcde"), selects=name)
    low, high = interval(lambda draws: objective.resampled(outputs, targets, draws), 50)
    assert low < objective.score(outputs, targets) < high


class Given:
    """A model that answers what it was given, of a task whose targets were given, too."""

    kind, base = "given", None

    def __init__(self, outputs: Tensor, targets: Tensor) -> None:
        self._outputs, self._targets = outputs, targets

    def outputs(self, rows: Any) -> Tensor:
        return self._outputs

    def targets(self, rows: Any, features: Any) -> Tensor:
        return self._targets

    def files(self) -> dict[str, bytes]:
        return {}


@pytest.mark.parametrize("name", CHOOSING)
def test_the_interval_of_a_report_is_of_the_metric_beside_it(place: Any, name: str) -> None:
    outputs, targets = drawn(240, 6)
    outputs -= 3.0  # so that at even odds hardly a label is answered
    targets[239] = float("nan")
    given: Any = Given(outputs[120:], targets[120:])
    lesson = Lesson([{}], [{}] * 120, targets[:1], targets[:120], MultiLabel(tuple("abcdef"), selects=name))
    outcome = Outcome("given", Rung.PROBE, given, outputs[:120])
    grant = place.grant("1/", "write")
    spec = JobSpec(
        job="j", attempt=1, flow="f", vertical="v", base_model="b", rows=grant, output=grant, max_device_ms=1
    )
    splits = Splits([{}], [{}] * 120, [{}] * 120, {})
    done = finish(spec, given, {}, lesson, splits, Climbed(outcome, "", None, [], 0, {}))
    low, high = done.report["interval"]
    assert done.metrics[name] == pytest.approx((low + high) / 2, abs=(high - low) / 4)


def test_labels_that_are_always_or_never_there_and_rows_with_none_are_judged() -> None:
    targets = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    right = targets * 8 - 4
    perfect = {name: metric(right, targets) for name, metric in SETS.items() if name != "loss"}
    assert perfect == dict.fromkeys(perfect, 1.0)
    nothing = torch.zeros(3, 3)
    assert [SETS[name](nothing - 1, nothing) for name in CHOOSING] == [1.0] * 4
    assert [SETS[name](nothing + 1, nothing) for name in ("micro_f1", "macro_f1", "subset_accuracy")] == [0.0] * 3
    objective = MultiLabel(("always", "never", "once"))
    settled = objective.calibrate(right, targets)
    judged = objective.judge(right, targets, settled)
    assert judged.metrics["micro_f1"] == 1.0
    assert judged.details["by_label"][1] == {"label": "never", "rows": 0, "precision": None, "recall": None}
    answers: list[Any] = [each.output for each in objective.answer(right, settled)]
    assert [set(answer) for answer in answers] == [{"always", "once"}, {"always"}, {"always"}]


def test_a_row_is_unknown_without_a_cell_or_with_a_label_of_none_and_known_with_an_empty_set() -> None:
    objective = MultiLabel(("a", "b"))
    targets = objective.targets([["b", "a"], [], None, ["a", "z"]])
    assert targets[:2].tolist() == [[1.0, 1.0], [0.0, 0.0]]
    assert objective.known(targets).tolist() == [True, True, False, False]
    outputs = torch.zeros(4, 2)
    assert objective.calibrate(outputs, targets) == objective.calibrate(outputs[:2], targets[:2])
    assert objective.judge(outputs[2:], targets[2:], {}).metrics == {}


def test_the_loss_is_binary_cross_entropy_with_both_answers_smoothed() -> None:
    objective, outputs, targets = MultiLabel(("a", "b")), torch.tensor([[2.0, -1.0]]), torch.tensor([[1.0, 0.0]])
    plain = -math.log(torch.tensor(2.0).sigmoid()) - math.log(1 - torch.tensor(-1.0).sigmoid())
    assert objective.loss(outputs, targets).item() == pytest.approx(plain, abs=1e-6)
    yes, no = torch.tensor(2.0).sigmoid().item(), torch.tensor(-1.0).sigmoid().item()
    smooth = -(0.95 * math.log(yes) + 0.05 * math.log(1 - yes)) - (0.05 * math.log(no) + 0.95 * math.log(1 - no))
    assert objective.loss(outputs, targets, smoothing=0.1).item() == pytest.approx(smooth, abs=1e-6)
    focal = objective.learned_by(Loss.FOCAL, None).loss(outputs, targets).item()
    assert focal == pytest.approx(-((1 - yes) ** 2) * math.log(yes) - no**2 * math.log(1 - no), abs=1e-6)
    rare = objective.learned_by(None, torch.tensor([[1.0, 0.0]] + [[0.0, 1.0]] * 3))
    assert list(rare.weights) == pytest.approx([3.0, 1 / 3])
    with pytest.raises(JobFault, match="mse does not suit this target"):
        objective.learned_by(Loss.MSE, None)


@pytest.mark.slow
def test_a_threshold_is_the_labels_own_where_it_has_rows_enough_and_everybodys_else() -> None:
    chance = torch.Generator().manual_seed(0)
    targets = torch.zeros(400, 3)
    targets[:100, 0], targets[:60, 1], targets[:3, 2] = 1.0, 1.0, 1.0
    shares = torch.rand(400, 3, generator=chance) * 0.2
    shares[:100, 0] += 0.15
    shares[:60, 1] += 0.5
    cuts = thresholds(shares.double(), targets.double())
    f1 = [metrics.f1_score(targets[:, 0], shares[:, 0] >= cut) for cut in torch.linspace(0.01, 0.4, 200)]
    assert metrics.f1_score(targets[:, 0], shares[:, 0].double() >= cuts[0]) >= max(f1) - 1e-9
    assert 0.2 <= cuts[1] <= 0.5
    alone = thresholds(shares.double()[:, :1].repeat(1, 2), targets.double()[:, :1].repeat(1, 2))
    assert alone.tolist() == [cuts[0].item()] * 2
    assert cuts[2] not in (cuts[0], cuts[1])
    assert thresholds(shares.double(), torch.zeros(400, 3)).tolist() == [0.5] * 3


def test_calibration_makes_overconfident_odds_honest() -> None:
    chance = torch.Generator().manual_seed(0)
    honest = torch.randn(4000, 3, generator=chance)
    targets = (torch.rand(4000, 3, generator=chance) < honest.sigmoid()).float()
    settled = MultiLabel(("a", "b", "c")).calibrate(honest * 3, targets)
    assert settled["temperature"] == pytest.approx(3.0, rel=0.1)


def test_the_constant_answer_names_as_many_frequent_labels_as_pay() -> None:
    objective = MultiLabel(("a", "b", "c"))
    targets = torch.tensor([[1.0, 1.0, 0.0]] * 6 + [[1.0, 0.0, 1.0]] + [[0.0, 0.0, 0.0]] * 3)
    outputs = objective.constant(targets)[None].expand(10, -1)
    scores = [SETS["micro_f1"](torch.tensor([each]).expand(10, -1) - 0.5, targets)
              for each in ((1.0, 0.0, 0.0), (1.0, 1.0, 0.0), (1.0, 1.0, 1.0))]  # fmt: skip
    assert objective.score(outputs, targets) == max(scores)
    assert torch.isfinite(objective.constant(torch.ones(5, 3))).all()
    assert (
        MultiLabel(("a", "b")).score(objective.constant(torch.ones(5, 3))[None, :2].expand(5, -1), torch.ones(5, 2))
        == 1
    )


def test_a_metric_that_cannot_choose_is_refused_and_so_are_rows_without_any_label() -> None:
    with pytest.raises(VerticalError, match="'accuracy' cannot choose among models of several labels"):
        MultiLabel(("a",), selects="accuracy")
    with pytest.raises(JobFault, match="no training row has a label"):
        MultiLabel(())


def face(offer: Any, metric: str = "micro_f1", **facts: Any) -> Vertical:
    text = SchemaField(role="text", kind=FieldKind.TEXT, title="Text")
    table = SchemaField(role="features", kind=FieldKind.COLUMNS, title="Features")
    labels = SchemaField(role="labels", kind=FieldKind.LABELS, title="Topics")
    fields = (table if "Tabular" in facts["task"] else text, labels)
    return Vertical(
        name="tiny", title="Tiny", description="For tests.", schema=Schema(fields=fields),
        metrics=(Metric(name=metric, title="Score"),), base_models=(offer,), **facts,
    )  # fmt: skip


def rows(count: int = 120) -> list[dict[str, str]]:
    """Texts of no, one, two or all topics; ``often`` is in every set but the empty ones."""
    splits = ["train", "train", "train", "validation", "test"]
    filler = ["please", "help", "me", "my", "the", "is"]
    made = []
    for at in range(count):
        topics = [label for bit, label in enumerate(WORDS) if at >> bit & 1]
        words = " ".join(WORDS[topic] for topic in topics) or "order pay bill"
        labels = json.dumps([*topics, *(["often"] if topics else [])])
        made.append(
            {"text": f"{words} {filler[at % 6]} {filler[at // 8 % 6]}", "labels": labels, "split": splits[at % 5]}
        )
    return made


def run(place: Any, base: Base, data: list[dict[str, str]], **options: Any) -> EventKind:
    spec = JobSpec(
        job="j", attempt=1, flow="f", vertical="tiny", base_model="tiny", rows=place.dataset(data),
        max_device_ms=600_000, output=place.grant("1/", "write"),
        options=TrainingOptions(**{"epochs": 2, "batch_size": 16, "rank": 4, "minimum_gain": 0.0, **options}),
    )  # fmt: skip
    return run_job(spec, storage=place.storage, stop=lambda: None, base=lambda _: base, heartbeat_s=5)


def told(place: Any) -> dict[str, Any]:
    return dict(place.events("1")[-2].data)


@pytest.mark.slow
def test_a_job_learns_several_labels_of_a_text_and_answers_with_a_list(
    place: Any, tiny: Base, tiny_offer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vertical = face(tiny_offer, task="inference.tasks.text:Text")
    monkeypatch.setattr(registry, "verticals", lambda: {"tiny": vertical})
    assert run(place, tiny, rows(240), highest_rung="lora") is EventKind.SUCCEEDED
    report = told(place)["report"]
    assert report["selects"] == "micro_f1"
    assert report["metrics"]["micro_f1"] > 0.9 > report["baselines"]["majority"]
    assert [line["name"] for line in report["leaderboard"]] == ["probe", "lora"]
    assert {line["label"] for line in report["by_label"]} == {*WORDS, "often"}
    low, high = report["interval"]
    assert 0 < low <= high <= 1
    folder = read_folder(place.folder("1/model/"))
    assert len(folder.features["thresholds"]) == 4
    odds = torch.tensor([[9.0, 9.0, -9.0, -9.0], [-9.0] * 4])
    both, none = load_task(vertical).answer(odds, folder.features)
    assert (both.output, none.output) == (["card", "often"], [])
    assert none.probabilities is not None
    assert all(share < 0.5 for share in none.probabilities.values())


@pytest.mark.slow
def test_candidates_of_tables_that_learn_one_label_leave_themselves_out(
    place: Any, tiny: Base, tiny_offer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import duckdb

    vertical = face(tiny_offer, task="inference.tasks.tabular:Tabular")
    monkeypatch.setattr(registry, "verticals", lambda: {"tiny": vertical})
    made = [
        {"features": json.dumps({f"c{bit}": str(at >> bit & 1) for bit in range(3)} | {"n": str(at % 7)}),
         "labels": row["labels"], "split": row["split"]}
        for at, row in enumerate(rows(300))
    ]  # fmt: skip
    grant = place.dataset(made)
    plain = place.root / "plain.parquet"
    plain.write_bytes(place.storage.read(grant))
    kinds = json.dumps({"c0": "number", "c1": "number", "c2": "number", "n": "number"})
    target = place.root / "again.parquet"
    duckdb.execute(
        f"COPY (SELECT * FROM read_parquet('{plain}')) TO '{target}' (FORMAT parquet, KV_METADATA {{kinds: '{kinds}'}})"
    )
    monkeypatch.setattr(place.__class__, "dataset", lambda self, _: frozen(self, target))
    assert run(place, tiny, made, highest_rung="probe") is EventKind.SUCCEEDED
    report = told(place)["report"]
    assert [line["name"] for line in report["leaderboard"]][:3] == ["linear", "network", "blend"]
    assert report["metrics"]["micro_f1"] > 0.95


def frozen(place: Any, path: Any) -> Any:
    import hashlib

    from tilth.contract import sealing

    content = path.read_bytes()
    path.write_bytes(sealing.seal(content, place.sealed_with))
    return place.grant(path.name, sha256=hashlib.sha256(content).hexdigest())


def test_training_rows_without_any_label_fail_the_job_with_a_word(
    place: Any, tiny: Base, tiny_offer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vertical = face(tiny_offer, task="inference.tasks.text:Text")
    monkeypatch.setattr(registry, "verticals", lambda: {"tiny": vertical})
    bare = [{**row, "labels": "[]"} for row in rows(60)]
    assert run(place, tiny, bare) is EventKind.FAILED
    assert told(place)["code"] == "no_label"
