"""The search: joint steps equal to steps alone, successive halving, Optuna's sampler, pause and resume, budgets."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tilth.contract import registry
from tilth.contract.digest import MANIFEST
from tilth.contract.learning import Method, Rung, Targets
from tilth.contract.messages import EventKind, Row, TrainingOptions
from tilth.contract.vertical import BaseModelOffer

from inference.adapters.folder import read_folder
from inference.engine.adapting.classifier import of_encoder
from inference.engine.adapting.climb import Adapted
from inference.engine.adapting.methods import METHODS
from inference.engine.adapting.recipe import Recipe
from inference.engine.base_models import Base
from inference.engine.batches import Batch
from inference.engine.candidate import Lesson
from inference.engine.encoder import TextEncoder
from inference.engine.errors import Stopped
from inference.engine.heads import Head, read_head
from inference.engine.objectives.single_label import SingleLabel
from inference.engine.search.candidate import Search
from inference.engine.search.halving import FACTOR, Halving, rung_steps
from inference.engine.search.hunt import Hunt
from inference.engine.search.leg import Leg, Stepped
from inference.engine.search.sampler import Told
from inference.engine.search.space import Space
from inference.engine.search.team import Team, teams
from inference.engine.search.trial import Trial
from tests.inference.attempts import Attempts, options_that_always_climb, tiny_face

ABC = SingleLabel(("a", "b", "c"))
AROUND = Recipe(rank=4, epochs=2, batch_size=8, rate=1.0, seed=3)
RECIPES = (
    AROUND,
    replace(AROUND, rank=2, rate=3.0, smoothing=0.0),
    replace(AROUND, rank=8, rate=0.3, targets=Targets.QUERY_VALUE),
    replace(AROUND, rank=1, epochs=3, targets=Targets.ATTENTION),
)


@pytest.fixture(autouse=True)
def _tiny_vertical(monkeypatch: pytest.MonkeyPatch, tiny_offer: BaseModelOffer) -> None:
    monkeypatch.setattr(registry, "verticals", lambda: {"tiny": tiny_face(tiny_offer)})


@pytest.fixture
def encoder(tiny: Base) -> TextEncoder:
    made = torch.Generator().manual_seed(0)
    ids = [torch.randint(5, 25, (4 + row % 7,), generator=made).tolist() for row in range(44)]
    targets = torch.arange(44) % 3
    train: list[Row] = [{"at": at} for at in range(30)]
    valid: list[Row] = [{"at": at} for at in range(30, 44)]
    lesson = Lesson(train, valid, targets[:30], targets[30:], ABC)
    return TextEncoder(tiny, lesson, lambda rows: [ids[int(str(row["at"]))] for row in rows], TrainingOptions())


def begun(encoder: TextEncoder, recipes: tuple[Recipe, ...], method: Method = Method.LORA) -> list[Trial]:
    torch.manual_seed(1)
    head = Head(torch.randn(3, encoder.base.hidden_size), torch.zeros(3))
    return [Trial.begun(at, {}, method, each, encoder, head) for at, each in enumerate(recipes)]


def stepped(encoder: TextEncoder, trials: list[Trial], steps: int, rows_at_once: int) -> dict[str, list[float]]:
    told: dict[str, list[float]] = {}

    def tell(some: Sequence[Trial], _: Batch, losses: Sequence[float]) -> None:
        for trial, loss in zip(some, losses, strict=True):
            told.setdefault(str(trial.number), []).append(loss)

    for team in teams(trials, rows_at_once):
        team.advance({each.number: steps for each in team.trials}, tell)
    return told


@pytest.mark.slow
@pytest.mark.parametrize("rows_at_once", [32, 16, 12, 5])
def test_trials_that_step_together_learn_what_each_would_learn_alone(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    monkeypatch.setattr("inference.engine.precision.has_fast_bf16", lambda: False)
    together, alone = begun(encoder, RECIPES), begun(encoder, RECIPES)
    losses = stepped(encoder, together, 6, rows_at_once)
    own = {key: value for each in alone for key, value in stepped(encoder, [each], 6, 8).items()}
    for number, found in losses.items():
        assert found == pytest.approx(own[number], abs=1e-5)
    for one, other in zip(together, alone, strict=True):
        theirs = other.run.model.learned()
        for name, tensor in one.run.model.learned().items():
            torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-5)


def test_trials_are_judged_together_as_each_is_alone(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.engine.precision.has_fast_bf16", lambda: False)
    trials = begun(encoder, RECIPES)
    stepped(encoder, trials, 3, 64)
    together = Team(trials, 64).outputs(trials, encoder.validation)
    for trial, found in zip(trials, together, strict=True):
        [alone] = Team([trial], 64).outputs([trial], encoder.validation)
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-5)


def test_methods_without_a_joint_step_and_other_batch_sizes_step_by_themselves(encoder: TextEncoder) -> None:
    mixed = (*RECIPES, replace(AROUND, batch_size=16))
    sizes = [len(team.trials) for team in teams(begun(encoder, mixed), 64)]
    assert sizes == [4, 1]
    assert [len(team.trials) for team in teams(begun(encoder, RECIPES, Method.BITFIT), 64)] == [1] * 4
    assert [len(team.trials) for team in teams(begun(encoder, RECIPES), 16)] == [2, 2]


def test_each_trial_of_a_team_is_judged_at_its_own_points_and_once(encoder: TextEncoder) -> None:
    trials = begun(encoder, (AROUND, replace(AROUND, epochs=5)))
    [team] = teams(trials, 64)
    rung = {each.number: each.run.steps for each in trials}
    judged: dict[int, list[int]] = {0: [], 1: []}
    while leg := Leg.of(team, rung):
        for number in leg.walk(lambda _: None, lambda: None):
            trials[number].judged = trials[number].step
            judged[number].append(trials[number].step)
    assert judged == {each.number: each.points() for each in trials}


def test_a_trial_that_was_paused_where_it_is_to_be_judged_is_judged_when_it_goes_on(encoder: TextEncoder) -> None:
    [trial] = begun(encoder, (AROUND,))
    [team] = teams([trial], 64)
    leg = Leg.of(team, {0: 1})
    assert leg is not None
    heard: list[Stepped] = []
    with pytest.raises(Stopped):
        leg.walk(heard.extend, lambda: stops_at(1, trial))
    assert (trial.step, trial.judged, len(heard)) == (1, 0, 1)
    again = Leg.of(team, {0: 1})
    assert again is not None
    assert set(again.walk(heard.extend, lambda: None)) == {0}
    assert len(heard) == 1


def stops_at(step: int, trial: Trial) -> None:
    if trial.step == step:
        raise Stopped("pause", step)


def test_a_team_of_which_all_have_run_away_is_judged_no_more(encoder: TextEncoder) -> None:
    [trial] = begun(encoder, (replace(AROUND, rate=float("nan")),))
    assert Leg(Team([trial], 64), {0: 4}).walk(lambda _: None, lambda: None) == {}
    assert trial.state == "diverged"


def test_a_trial_that_runs_away_harms_none_beside_it(encoder: TextEncoder) -> None:
    wild = (AROUND, replace(AROUND, rate=float("nan")), replace(AROUND, rank=2))
    trials = begun(encoder, wild)
    stepped(encoder, trials, 4, 64)
    assert [each.state for each in trials] == ["running", "diverged", "running"]
    assert [each.step for each in trials] == [4, 2, 4]


@given(st.integers(1, 10_000))
def test_rungs_end_with_the_whole_run_and_grow(steps: int) -> None:
    rungs = rung_steps(steps)
    assert rungs[-1] == steps
    assert rungs == sorted(rungs)
    assert len(rungs) == 3


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=9), min_size=1, max_size=4))
def test_the_better_of_all_that_reached_a_rung_go_on_and_at_least_one_of_each_round(
    rounds: list[list[float]],
) -> None:
    halving, seen = Halving(), list[float]()
    for scores in rounds:
        going = halving.promoted(0, scores)
        seen += scores
        kept = [score for score, goes in zip(scores, going, strict=True) if goes]
        left = [score for score, goes in zip(scores, going, strict=True) if not goes]
        assert kept
        assert not left or max(left) <= min(kept)
        distinct = len(set(seen)) == len(seen)
        assert not distinct or len(kept) <= max(1, len(seen) // FACTOR)


def test_trials_stand_among_those_of_their_method() -> None:
    """Early on whatever moves little is ahead."""
    scores = [(Method.LORA, 0.2), (Method.LORA, 0.3), (Method.BITFIT, 0.8), (Method.BITFIT, 0.9), (Method.LORA, 0.1)]
    nothing: Any = None
    hunt = Hunt(nothing, trials=8, rows_at_once=8, session=nothing)
    live: Any = [SimpleNamespace(number=at, method=method, score=score) for at, (method, score) in enumerate(scores)]
    hunt.live = live
    assert hunt._promoted() == {1, 3}


def test_the_first_trial_is_the_recipe_that_is_taken_without_a_search() -> None:
    space = Space.of(TrainingOptions(), AROUND)
    assert space.recipe(space.ask([], 4, seed=0)[0]) == AROUND


def test_what_the_customer_fixed_does_not_vary() -> None:
    fixed = TrainingOptions(rank=4, epochs=2, batch_size=8, learning_rate_multiplier=1.0, label_smoothing=0.1)
    space = Space.of(fixed, AROUND)
    assert set(space.varied) == {"method", "targets"}
    assert {"rank", "targets"}.isdisjoint(Space.of(TrainingOptions(method=Method.BITFIT), AROUND).varied)
    assert "layers" in Space.of(TrainingOptions(method=Method.LAST_LAYERS), AROUND).varied


def test_the_sampler_learns_from_what_has_ended_and_says_the_same_for_the_same_history() -> None:
    space = Space.of(TrainingOptions(method=Method.LORA), AROUND)
    ended: list[Told] = []
    for _ in range(6):
        asked = space.ask(ended, 8, seed=1)
        scores = [(params["rank"] == 8) - abs(math.log(params["rate"] / 3)) for params in asked]
        least = sorted(scores)[-3]
        ended += [Told(params, score, score >= least) for params, score in zip(asked, scores, strict=True)]
    assert space.ask(ended, 3, seed=1) == space.ask(ended, 3, seed=1)
    late = [told.params["rank"] for told in ended[-16:]]
    assert late.count(8) > 16 / 3


def test_a_trial_has_only_what_its_method_has_a_use_for() -> None:
    space = Space.of(TrainingOptions(highest_rung=Rung.FULL), AROUND, ["tiny", "wide"])
    asked = space.ask([], 24, seed=2)
    assert [space.base(params) for params in asked[:2]] == ["tiny", "wide"]
    assert {space.method(params) for params in asked} == {Method.LORA, Method.BITFIT, Method.LAST_LAYERS}
    for params in asked:
        method = space.method(params)
        assert ("rank" in params, "targets" in params) == (method is Method.LORA,) * 2
        assert ("layers" in params) == (method is Method.LAST_LAYERS)


def test_the_sampler_learns_which_base_and_method_do_well() -> None:
    space = Space.of(TrainingOptions(), AROUND, ["tiny", "wide"])
    ended: list[Told] = []
    for _ in range(5):
        asked = space.ask(ended, 8, seed=1)
        assert asked == space.ask(ended, 8, seed=1)
        scores = [(params["base_model"] == "wide") + (params["method"] == "bitfit") + 0.0 for params in asked]
        ended += [Told(params, score, True) for params, score in zip(asked, scores, strict=True)]
    late = [(told.params["base_model"], told.params["method"]) for told in ended[-16:]]
    assert late.count(("wide", "bitfit")) > 16 / 4


SEARCH: dict[str, Any] = {"trials": 10, "rank": None, "epochs": 3, "method": Method.LORA, "consistency": 0}


@pytest.fixture
def attempts(place: Any, tiny: Base, monkeypatch: pytest.MonkeyPatch) -> Attempts:
    options_that_always_climb(monkeypatch)
    return Attempts(place, tiny)


@pytest.mark.slow
def test_a_search_shows_every_trial_and_leaves_the_best_as_a_model(attempts: Attempts) -> None:
    assert attempts.run(**SEARCH) is EventKind.SUCCEEDED
    report = attempts.last(EventKind.SUCCEEDED)["report"]
    line = next(each for each in report["leaderboard"] if each["name"] == "search")
    trials = line["trials"]
    assert sorted(each["trial"] for each in trials) == list(range(10))
    assert {each["state"] for each in trials} == {"stopped", "ended"}
    assert line["score"] == max(each["score"] for each in trials if each["state"] == "ended")
    assert all(each["interval"][0] <= each["score"] <= each["interval"][1] for each in trials)
    shown = {event.data.get("rung") for event in attempts.place.events("1") if event.kind is EventKind.METRICS}
    assert {f"trial {number}" for number in range(10)} <= shown
    folder = read_folder(attempts.folder())
    assert folder.rank == line["rank"]
    assert report["rung"] == "search"


@pytest.mark.slow
def test_a_search_stops_the_hopeless_early(attempts: Attempts) -> None:
    assert attempts.run(**SEARCH) is EventKind.SUCCEEDED
    report = attempts.last(EventKind.SUCCEEDED)["report"]
    trials = next(each for each in report["leaderboard"] if each["name"] == "search")["trials"]
    spent, whole = (sum(each[name] for each in trials) for name in ("steps", "of_steps"))
    assert spent < 0.6 * whole


@pytest.mark.slow
@pytest.mark.parametrize("moment", [14, 25, 40])
def test_a_search_that_was_paused_ends_as_one_that_was_not(attempts: Attempts, moment: int) -> None:
    assert attempts.run(1, **SEARCH) is EventKind.SUCCEEDED
    asked = iter(range(10_000))
    assert attempts.run(2, stop=lambda: "pause" if next(asked) > moment else None, **SEARCH) is EventKind.PAUSED
    kept = attempts.last(EventKind.CHECKPOINT, 2)
    assert attempts.run(3, resume=f"2/{kept['path']}", **SEARCH) is EventKind.SUCCEEDED
    whole, resumed = (read_folder(attempts.folder(n)) for n in (1, 3))
    assert whole.lora.keys() == resumed.lora.keys()
    for name, weights in whole.lora.items():
        assert weights.a.equal(resumed.lora[name].a)
        assert weights.b.equal(resumed.lora[name].b)
    boards = [attempts.last(EventKind.SUCCEEDED, n)["report"]["leaderboard"][1]["trials"] for n in (1, 3)]
    timeless = [[{k: v for k, v in line.items() if k != "device_ms"} for line in board] for board in boards]
    assert timeless[0] == timeless[1]


@pytest.mark.slow
def test_a_budget_that_ends_leaves_the_best_trial_so_far(attempts: Attempts, monkeypatch: pytest.MonkeyPatch) -> None:
    from inference.engine.errors import BudgetReached
    from inference.engine.reporting import Reporter

    check: Callable[[Reporter, int], None] = Reporter.check

    def until(reporter: Reporter, step: int) -> None:
        check(reporter, step)
        if step >= 12:
            raise BudgetReached("used up")

    monkeypatch.setattr(Reporter, "check", until)
    assert attempts.run(**SEARCH) is EventKind.SUCCEEDED
    report = attempts.last(EventKind.SUCCEEDED)["report"]
    assert report["rung"] == "search"
    assert {each["state"] for each in report["leaderboard"][1]["trials"]} <= {"stopped", "running"}


def test_a_search_in_little_memory_takes_fewer_rows_at_once(encoder: TextEncoder) -> None:
    search = Search((encoder,), trials=8, rows_at_once=64)
    smaller = search.smaller()
    assert smaller is not None
    assert smaller.rows_at_once == 32
    assert smaller.need(5) < search.need(5)
    assert search.need(5) > Search((encoder,), trials=2, rows_at_once=64).need(5)


@pytest.mark.slow
@pytest.mark.parametrize("method", [Method.BITFIT, Method.LAST_LAYERS])
def test_a_search_over_another_method_leaves_a_whole_model(attempts: Attempts, method: Method) -> None:
    assert attempts.run(**{**SEARCH, "trials": 3, "epochs": 2, "method": method}) is EventKind.SUCCEEDED
    files = attempts.folder()
    assert "weights.safetensors" in files
    assert f'"candidate": "{method.value}"'.encode() in files["features.json"]


EVERYTHING: dict[str, Any] = {"trials": 9, "epochs": 2, "base_models": ("wide",)}


@pytest.fixture
def both(place: Any, tiny: Base, wide: Base, monkeypatch: pytest.MonkeyPatch) -> Attempts:
    """A job's own base that tells no word from another, and one that does."""
    options_that_always_climb(monkeypatch)
    with torch.no_grad():
        tiny.model.get_input_embeddings().weight.zero_()  # type: ignore[operator]
    return Attempts(place, tiny, wide)


@pytest.mark.slow
def test_a_search_over_bases_and_methods_leaves_a_model_on_the_base_that_won(both: Attempts, wide: Base) -> None:
    assert both.run(**EVERYTHING) is EventKind.SUCCEEDED
    done = both.last(EventKind.SUCCEEDED)
    lines = {line["name"]: line for line in done["report"]["leaderboard"]}
    assert lines["probe-2"]["base_model"] == "wide"
    assert lines["probe-2"]["score"] > lines["probe"]["score"]
    trials = lines["search"]["trials"]
    assert {(line["base_model"], line["method"]) for line in trials[:2]} <= {("wide", "lora"), ("wide", "bitfit")}
    assert {line["method"] for line in trials} == {"lora", "bitfit"}
    assert {line["base_model"] for line in trials} == {"tiny", "wide"}
    files = both.folder()
    manifest = json.loads(files[MANIFEST])
    assert (manifest["base_model"], done["report"]["base_model"]) == ("wide", "wide")
    assert b"base_model: wide" in files["README.md"]
    assert head_width(files) == wide.hidden_size


def head_width(files: dict[str, bytes]) -> int:
    return read_head(files).weight.shape[1]


@pytest.mark.parametrize("method", [Method.LORA, Method.IA3, Method.BITFIT])
def test_the_best_of_a_search_is_opened_again_on_its_own_base(encoder: TextEncoder, wide: Base, method: Method) -> None:
    other = replace(encoder, base=wide)
    [trial] = begun(other, (AROUND,), method)
    changes = METHODS[method].files(of_encoder(trial.run.model.learned()), wide, AROUND)
    model = Adapted(other, method, changes, Head(torch.randn(3, 48), torch.zeros(3)))
    again = Search((encoder, other), trials=2, rows_at_once=8).reopen(model.files())
    assert again.base is wide
    torch.testing.assert_close(again.outputs(encoder.lesson.validation), model.outputs(encoder.lesson.validation))


def test_the_memory_of_a_search_is_that_of_its_largest_base(encoder: TextEncoder, wide: Base) -> None:
    other = replace(encoder, base=wide)
    alone, both = (Search(each, trials=8, rows_at_once=64) for each in ((other,), (encoder, other)))
    assert both.need(5) == alone.need(5) > Search((encoder,), trials=8, rows_at_once=64).need(5)


@pytest.mark.slow
def test_a_search_over_bases_and_methods_that_was_paused_ends_as_one_that_was_not(both: Attempts) -> None:
    assert both.run(1, **EVERYTHING) is EventKind.SUCCEEDED
    asked = iter(range(10_000))
    assert both.run(2, stop=lambda: "pause" if next(asked) > 40 else None, **EVERYTHING) is EventKind.PAUSED
    kept = both.last(EventKind.CHECKPOINT, 2)
    assert kept["metrics"]["step"] > 0
    assert both.run(3, resume=f"2/{kept['path']}", **EVERYTHING) is EventKind.SUCCEEDED
    whole, resumed = (both.folder(n) for n in (1, 3))
    assert read_head(whole).weight.equal(read_head(resumed).weight)
    boards = [both.last(EventKind.SUCCEEDED, n)["report"]["leaderboard"][2]["trials"] for n in (1, 3)]
    timeless = [[{k: v for k, v in line.items() if k != "device_ms"} for line in board] for board in boards]
    assert timeless[0] == timeless[1]
