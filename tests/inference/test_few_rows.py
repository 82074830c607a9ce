"""Few rows: what labels are called helps, and the chosen way learns from validation's rows once it has been chosen."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from tilth.contract import registry
from tilth.contract.learning import Method, Rung, Targets
from tilth.contract.messages import EventKind, Row, TrainingOptions
from tilth.contract.vertical import BaseModelOffer
from torch import Tensor

from inference.engine import again, probe
from inference.engine.adapting.climb import adapted
from inference.engine.adapting.recipe import Recipe
from inference.engine.again import learned_again, whole
from inference.engine.base_models import Base
from inference.engine.candidate import Candidate, Lesson, Session
from inference.engine.checkpoints import Checkpoint, Progress, load_checkpoint, save_checkpoint
from inference.engine.encoder import TextEncoder
from inference.engine.errors import BudgetReached, JobFault, Stopped
from inference.engine.fitting import Taught, fit_linear
from inference.engine.ladder import Climbed, Ladder
from inference.engine.objectives.number import Number
from inference.engine.objectives.single_label import SingleLabel
from inference.engine.probe import NAMES, head_of
from inference.engine.search.candidate import Search
from inference.engine.search.team import Team
from inference.engine.search.trial import Trial
from inference.tasks.naming import spoken
from inference.tasks.text import encoder_path
from tests.bench.silent import NoCheckpoints, Silent
from tests.inference.attempts import LABELS, Attempts, rows, tiny_face

OPTIONS = TrainingOptions(epochs=3, batch_size=8, rank=4, minimum_gain=0.0)
OBJECTIVE = SingleLabel(tuple(sorted(LABELS)))


class Told(Silent):
    """A reporter that remembers its notes, and checks as it is told."""

    def __init__(self, check: Callable[[], None] = lambda: None) -> None:
        self.notes: list[str] = []
        self.worked = 0.0
        self._check = check

    def note(self, message: str) -> None:
        self.notes.append(message)

    def work(self, passes: float) -> None:
        self.worked += passes

    def check(self, step: int) -> None:
        self._check()


def lesson(train: Sequence[Row], validation: Sequence[Row]) -> Lesson:
    targets = [OBJECTIVE.targets(str(row["label"]) for row in part) for part in (train, validation)]
    return Lesson(train, validation, targets[0], targets[1], OBJECTIVE)


def split(count: int = 5) -> Lesson:
    """``count`` times 20 rows, one in five of them for validation, some of those out of scope."""
    found: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    for row in rows(4 * count):
        found[row["split"]].append(dict(row))
    return lesson([row for row in found["train"] if row["label"] != "oos"], found["validation"])


def encoder(base: Base, found: Lesson, names: dict[int, Row] | None = None) -> TextEncoder:
    return TextEncoder(
        base, found, lambda some: base.encode([str(row["text"]) for row in some], 16), OPTIONS, names or {}
    )


def session(reporter: Told, climbed: Climbed) -> Session:
    return Session(cast("Any", reporter), cast("Any", NoCheckpoints()), climbed.done)


def climb(path: Sequence[Candidate], found: Lesson) -> Climbed:
    return Ladder(path, found, OPTIONS, cast("Any", Told()), cast("Any", NoCheckpoints())).climb()


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (["card_arrival", "card-linking"], {0: "arrival", 1: "linking"}),
        (["lostCard", "lost or stolen phone?"], {0: "card", 1: "or stolen phone"}),
        (["LABEL_0", "LABEL_1"], {}),
        (["0", "1", "refund"], {2: "refund"}),
        (["A1", "B2"], {}),
        (["Überweisung", "支付问题"], {0: "überweisung", 1: "支付问题"}),
        (["refund"], {}),
    ],
)
def test_labels_are_said_as_words_and_codes_not_at_all(labels: list[str], told: dict[int, str]) -> None:
    assert spoken(labels) == told


def probed(base: Base, found: Lesson, names: dict[int, Row]) -> Climbed:
    return climb(encoder_path([encoder(base, found, names)])[:1], found)


@pytest.mark.slow
def test_names_are_learned_from_where_validation_is_no_worse_for_it(tiny: Base) -> None:
    found = split()
    right: dict[int, Row] = {at: {"text": LABELS[label]} for at, label in enumerate(OBJECTIVE.labels)}
    wrong: dict[int, Row] = {(at + 1) % 3: row for at, row in right.items()}
    few = lesson(list(found.train)[:3], found.validation)
    plain = probed(tiny, few, {}).outcome
    for names, helps in ((right, True), (wrong, False)):
        outcome = probed(tiny, few, names).outcome
        assert outcome.facts.get(NAMES, False) is helps
        assert head_of(outcome).weight.equal(head_of(plain).weight) is not helps
    assert OBJECTIVE.score(probed(tiny, few, right).outcome.valid[few.known], few.validation_targets[few.known]) >= (
        OBJECTIVE.score(plain.valid[few.known], few.validation_targets[few.known])
    )


def test_names_are_not_read_where_rows_are_many(tiny: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "NAMED", 3)
    found = split()
    names: dict[int, Row] = {at: {"text": LABELS[label]} for at, label in enumerate(OBJECTIVE.labels)}
    assert len(found.train) > 9
    assert NAMES not in probed(tiny, found, names).outcome.facts


def test_a_copy_of_the_rows_is_made_only_for_names() -> None:
    vectors, targets = torch.rand(4, 2), torch.arange(4)
    assert Taught(vectors, targets).all()[0] is vectors
    named = Taught(vectors, targets, (torch.ones(1, 2), torch.tensor([9])))
    assert named.all()[0].shape == (5, 2)
    assert named.of(torch.tensor([0, 2]))[1].tolist() == [0, 2, 9]


def test_the_chosen_probe_learns_from_all_rows_that_have_a_label(tiny: Base) -> None:
    found = split()
    path = encoder_path([encoder(tiny, found)])[:1]
    climbed = climb(path, found)
    told = learned_again(path, found, climbed, session(Told(), climbed))
    every = whole(found)
    assert len(every.train) == len(found.train) + int(found.known.sum()) < len(found.train) + len(found.validation)
    vectors = probe.frozen_features(tiny, encoder(tiny, every).train, lambda _: None)
    strength, start = climbed.outcome.facts["strength"], head_of(climbed.outcome)
    wanted = fit_linear(vectors, every.train_targets, strength, start, OBJECTIVE)
    torch.testing.assert_close(head_of(told.outcome).weight, wanted.weight)
    assert not head_of(told.outcome).weight.equal(start.weight)
    assert told.outcome.valid is climbed.outcome.valid, "calibration must not see outputs for rows that were learned"
    assert told.reason.startswith(climbed.reason)
    assert "once more" in told.reason


@pytest.mark.slow
def test_a_method_learns_again_as_a_run_over_all_rows_would(tiny: Base) -> None:
    found = split()
    path = encoder_path([encoder(tiny, found)])[:2]
    climbed = climb(path, found)
    chosen = climbed.done[Method.LORA.value]
    climbed = Climbed(chosen, "", None, climbed.board, 0, climbed.done)
    reporter = Told()
    told = learned_again(path, found, climbed, session(reporter, climbed)).outcome.model
    every = whole(found)
    assert reporter.worked == 3 * 2 * chosen.facts["best_epoch"] * len(every.train) <= again.expected(path, found)
    # The same steps in a run that is judged on the old validation after each epoch.
    judged = Lesson(every.train, found.validation, every.train_targets, found.validation_targets, OBJECTIVE)
    candidate = encoder_path([encoder(tiny, judged)])[1]
    run = candidate.learn(Session(cast("Any", Told()), cast("Any", NoCheckpoints()), climbed.done))
    assert run is not None
    assert chosen.facts["best_epoch"] == run.facts["best_epoch"], "choose rows on which both stop at one epoch"
    torch.testing.assert_close(outputs(told, found.validation), outputs(run.model, found.validation))


def test_a_searchs_best_trial_learns_again_as_far_as_it_was_best(tiny: Base) -> None:
    found = split()
    asked = OPTIONS.model_copy(update={"trials": 3, "epochs": None, "rank": None})
    path = encoder_path([replace(encoder(tiny, found), options=asked)])
    [search] = (each for each in path if isinstance(each, Search))
    climbed = climb(path, found)
    chosen = climbed.done[search.name]
    climbed = Climbed(chosen, "", None, climbed.board, 0, climbed.done)
    told = learned_again(path, found, climbed, session(Told(), climbed)).outcome.model
    line = next(line for line in chosen.facts["trials"] if line["trial"] == chosen.facts["trial"])
    every = whole(found)
    recipe = Recipe(
        rank=line.get("rank", 4), epochs=line["epochs"], batch_size=line["batch_size"], rate=line["rate"], seed=0,
        smoothing=line["smoothing"], targets=Targets(line.get("targets", "all")), layers=line.get("layers", 2),
    )  # fmt: skip
    alone = Trial.begun(0, {}, Method(line["method"]), recipe, encoder(tiny, every), head_of(climbed.done["probe"]))
    Team([alone], 8).advance({0: round(line["steps"] / line["of_steps"] * alone.run.steps)}, lambda *_: None)
    wanted = adapted(encoder(tiny, every), alone.method, recipe, alone.run.model.learned())
    torch.testing.assert_close(outputs(told, found.validation), outputs(wanted, found.validation))


def test_one_row_of_validation_chooses_an_epoch_however_far_off_its_number_is(tiny: Base) -> None:
    some: list[Row] = [{"text": "lost card please"}] * 20
    numbers = torch.arange(21, dtype=torch.double)
    found = Lesson(some, some[:1], numbers[:20], numbers[20:], Number.of(numbers[:20].tolist()))
    path = encoder_path([encoder(tiny, found)])[:2]
    board = climb(path, found).board
    assert [line["name"] for line in board if line.get("score", 0) < -1e9] == ["probe", "lora"]


def test_a_checkpoint_keeps_that_no_epoch_was_judged(place: Any) -> None:
    at = Progress("lora", Rung.LORA, step=1, epoch=0, batch_in_epoch=1)
    folder, _ = save_checkpoint(place.storage, place.grant("1/", "write"), Checkpoint(at, {}, {}))
    assert load_checkpoint(place.storage, place.grant(f"1/{folder}")).progress.best_score == float("-inf")


def outputs(model: Any, some: Sequence[Row]) -> Tensor:
    return cast("Tensor", model.outputs(some))


def raises(error: Exception) -> Callable[[], None]:
    def check() -> None:
        raise error

    return check


@pytest.mark.parametrize(
    "error", [BudgetReached("the budget"), JobFault("diverged", "the loss became nan"), MemoryError("out of memory")]
)
def test_what_ends_it_early_leaves_the_model_of_before(tiny: Base, error: Exception) -> None:
    found = split()
    path = encoder_path([encoder(tiny, found)])[:1]
    climbed, reporter = climb(path, found), Told(raises(error))
    assert learned_again(path, found, climbed, session(reporter, climbed)) is climbed
    assert len(reporter.notes) == 1


def test_a_bug_in_it_is_not_hidden(tiny: Base) -> None:
    found = split()
    path = encoder_path([encoder(tiny, found)])[:1]
    climbed = climb(path, found)
    with pytest.raises(RuntimeError, match="shapes"):
        learned_again(path, found, climbed, session(Told(raises(RuntimeError("shapes"))), climbed))


def test_a_pause_in_it_stops_the_job(tiny: Base) -> None:
    found = split()
    path = encoder_path([encoder(tiny, found)])[:1]
    climbed = climb(path, found)
    with pytest.raises(Stopped):
        learned_again(path, found, climbed, session(Told(raises(Stopped("pause", 0))), climbed))


def test_many_rows_are_not_learned_again(tiny: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    found = split()
    monkeypatch.setattr(again, "FEW", len(found.train) - 1)
    path = encoder_path([encoder(tiny, found)])[:1]
    climbed = climb(path, found)
    assert again.expected(path, found) == 0
    assert learned_again(path, found, climbed, session(Told(), climbed)) is climbed


@pytest.mark.slow
def test_a_job_says_so_and_serves_what_learned_last(
    place: Any, tiny: Base, tiny_offer: BaseModelOffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "verticals", lambda: {"tiny": tiny_face(tiny_offer)})
    attempts = Attempts(place, tiny)
    assert attempts.run(1, highest_rung=Rung.PROBE) is EventKind.SUCCEEDED
    assert "once more" in attempts.last(EventKind.SUCCEEDED, 1)["report"]["why"]
    monkeypatch.setattr(again, "FEW", 0)
    assert attempts.run(2, highest_rung=Rung.PROBE) is EventKind.SUCCEEDED
    assert "once more" not in attempts.last(EventKind.SUCCEEDED, 2)["report"]["why"]
    first, second = (attempts.folder(at) for at in (1, 2))
    assert first["head.safetensors"] != second["head.safetensors"]


@pytest.mark.slow
def test_a_resumed_job_learns_again_to_the_same_bytes(
    place: Any, tiny: Base, tiny_offer: BaseModelOffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "verticals", lambda: {"tiny": tiny_face(tiny_offer)})
    attempts = Attempts(place, tiny)
    assert attempts.run(1) is EventKind.SUCCEEDED
    asked = [0]

    def count() -> None:
        asked[0] += 1

    assert attempts.run(2, stop=lambda: count()) is EventKind.SUCCEEDED
    last = asked[0] - 1
    left = iter(range(10_000))
    assert attempts.run(3, stop=lambda: "pause" if next(left) >= last else None) is EventKind.PAUSED
    checkpoint = attempts.last(EventKind.CHECKPOINT, 3)
    assert attempts.run(4, resume=f"3/{checkpoint['path']}") is EventKind.SUCCEEDED
    heads = [attempts.folder(at)["head.safetensors"] for at in (1, 2, 4)]
    assert heads[0] == heads[1] == heads[2]
