"""A search at the ends of what customers may ask for, and of trials that run away."""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from tilth.contract.learning import Method, Targets
from tilth.contract.messages import Row, TrainingOptions

from inference.engine.adapting.recipe import Recipe
from inference.engine.base_models import Base
from inference.engine.candidate import Lesson, Session
from inference.engine.encoder import TextEncoder
from inference.engine.heads import Head
from inference.engine.objectives.single_label import SingleLabel
from inference.engine.search.candidate import Search
from inference.engine.search.ground import Ground
from inference.engine.search.hunt import Hunt
from inference.engine.search.leg import Leg, Stepped
from inference.engine.search.sampler import Told
from inference.engine.search.space import Space
from inference.engine.search.team import Team
from inference.engine.search.trial import Trial
from tests.bench.silent import NoCheckpoints, Silent

AROUND = Recipe(rank=4, epochs=1, batch_size=8, rate=1.0, seed=0)
NAN = float("nan")


def encoder(base: Base, **options: Any) -> TextEncoder:
    made = torch.Generator().manual_seed(0)
    ids = [torch.randint(5, 25, (5,), generator=made).tolist() for _ in range(24)]
    rows: list[Row] = [{"at": at} for at in range(24)]
    targets = torch.arange(24) % 3
    lesson = Lesson(rows[:16], rows[16:], targets[:16], targets[16:], SingleLabel(("a", "b", "c")))
    asked = TrainingOptions(**options)
    return TextEncoder(base, lesson, lambda some: [ids[int(str(row["at"]))] for row in some], asked)


def head(base: Base) -> Head:
    return Head(torch.zeros(3, base.hidden_size), torch.zeros(3))


@pytest.mark.parametrize("seed", [4_295, 2**31 - 1])
def test_every_seed_that_customers_may_give_asks_for_trials(seed: int) -> None:
    space = Space.of(TrainingOptions(), AROUND)
    assert space.ask([], 2, seed) == space.ask([], 2, seed)


@pytest.mark.parametrize(("asked", "fixed"), [({"layers": 6}, "layers"), ({"targets": Targets.ATTENTION}, "targets")])
def test_layers_and_targets_that_the_customer_named_do_not_vary(asked: dict[str, Any], fixed: str) -> None:
    method = Method.LAST_LAYERS if fixed == "layers" else Method.LORA
    space = Space.of(TrainingOptions(method=method, **asked), replace(AROUND, **asked))
    recipes = [space.recipe(params) for params in space.ask([], 8, seed=0)]
    assert {getattr(recipe, fixed) for recipe in recipes} == {asked[fixed]}
    assert fixed in Space.of(TrainingOptions(method=method), AROUND).varied


def test_trials_that_varied_what_is_fixed_now_still_tell_the_sampler() -> None:
    space = Space.of(TrainingOptions(method=Method.LAST_LAYERS, layers=6), replace(AROUND, layers=6))
    ended = [Told({**params, "layers": 2}, 0.5, True) for params in space.ask([], 2, seed=0)]
    assert len(space.ask(ended, 2, seed=0)) == 2


def test_the_memory_of_a_search_is_that_of_all_layers_that_learn(tiny: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.engine.search.candidate.LAYERS", 1)
    one, two = (
        Search((encoder(tiny, method=Method.LAST_LAYERS, layers=layers),), trials=2, rows_at_once=8).need(5)
        for layers in (1, 2)
    )
    assert one < two


@pytest.mark.parametrize(("losses", "told"), [([NAN, 0.5, 0.7], 0.5), ([NAN], None), ([float("inf"), NAN], None)])
def test_a_step_tells_the_lowest_finite_loss(tiny: Base, losses: list[float], told: float | None) -> None:
    trials = [Trial.begun(at, {}, Method.LORA, AROUND, encoder(tiny), head(tiny)) for at in range(len(losses))]
    batch = Team(trials, 64)._batch(trials[0], 0)
    assert Stepped.of(trials, batch, losses).loss == told


def test_a_trial_whose_outputs_are_not_finite_where_it_is_judged_has_run_away(tiny: Base) -> None:
    wild = Trial.begun(0, {}, Method.LORA, replace(AROUND, rate=NAN), encoder(tiny), head(tiny))
    leg = Leg(Team([wild], 64), {0: 1})
    assert leg.walk(lambda _: None, lambda: None) == {}
    assert (wild.state, wild.score) == ("diverged", float("-inf"))


class Finite(Silent):
    """A reporter that takes what an event does."""

    def step(self, *, loss: float, **_: Any) -> None:
        assert torch.tensor(loss).isfinite()

    def scores(self, message: str, *, rung: str, step: int, **scores: float) -> None:
        assert torch.tensor(list(scores.values())).isfinite().all()


def test_a_search_all_of_whose_trials_run_away_ends_without_a_model(tiny: Base) -> None:
    own = encoder(tiny, method=Method.BITFIT, learning_rate_multiplier=1.0)
    ground = Ground(Space.of(own.options, replace(AROUND, rate=NAN, epochs=2)), (own,), (head(tiny),))
    hunt = Hunt(ground, 2, 64, Session(cast("Any", Finite()), cast("Any", NoCheckpoints()), {}))
    assert hunt.best() is None
    assert {line["state"] for line in hunt.board.values()} == {"diverged"}
