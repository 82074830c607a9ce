"""After a search its best trial learns once more, in two views: to what, instead of what, paused, killed, cut short."""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from tilth.contract import registry
from tilth.contract.learning import Method, Targets
from tilth.contract.messages import EventKind
from tilth.contract.vertical import BaseModelOffer

from inference.adapters.folder import read_folder
from inference.engine.adapting.climb import Adapt
from inference.engine.adapting.recipe import CONSISTENCY
from inference.engine.again import learned_again
from inference.engine.base_models import Base
from inference.engine.candidate import Session
from inference.engine.errors import BudgetReached
from inference.engine.ladder import Climbed
from inference.engine.reporting import Reporter
from inference.engine.search.hunt import Hunt
from inference.engine.search.space import LAYERS
from inference.tasks.text import encoder_path
from tests.bench.silent import NoCheckpoints
from tests.inference.attempts import Attempts, options_that_always_climb, tiny_face
from tests.inference.test_few_rows import OPTIONS, Told, climb, encoder, session, split

SEARCH: dict[str, Any] = {"trials": 4, "rank": None, "epochs": 3, "method": Method.LORA}


@pytest.fixture(autouse=True)
def _tiny_vertical(monkeypatch: pytest.MonkeyPatch, tiny_offer: BaseModelOffer) -> None:
    monkeypatch.setattr(registry, "verticals", lambda: {"tiny": tiny_face(tiny_offer)})


@pytest.fixture
def attempts(place: Any, tiny: Base, monkeypatch: pytest.MonkeyPatch) -> Attempts:
    options_that_always_climb(monkeypatch)
    return Attempts(place, tiny)


def board(attempts: Attempts, attempt: int = 1) -> dict[str, dict[str, Any]]:
    lines = attempts.last(EventKind.SUCCEEDED, attempt)["report"]["leaderboard"]
    return {line["name"]: line for line in lines}


@pytest.mark.slow
def test_trials_see_each_row_once_and_the_best_then_learns_from_two_views(attempts: Attempts) -> None:
    assert attempts.run(**SEARCH) is EventKind.SUCCEEDED
    report, lines = attempts.last(EventKind.SUCCEEDED)["report"], board(attempts)
    assert list(lines) == ["probe", "search", "best_trial"]
    best, again = lines["search"], lines["best_trial"]
    assert {line["consistency"] for line in best["trials"]} == {0}
    assert again["consistency"] == CONSISTENCY
    assert all(again[name] == best[name] for name in ("method", "rate", "rank", "targets", "batch_size"))
    assert report["rung"] == "best_trial"
    assert "over the search on validation" in report["why"]
    assert read_folder(attempts.folder()).rank == best["rank"]


@pytest.mark.slow
def test_it_is_the_run_that_a_job_with_its_numbers_makes(tiny: Base) -> None:
    found = split()
    asked = OPTIONS.model_copy(update={"trials": 3, "epochs": None, "rank": None})
    path = encoder_path([replace(encoder(tiny, found), options=asked)])
    done = climb(path, found).done
    line = done["search"].facts
    recipe = replace(
        encoder(tiny, found).recipe, epochs=line["epochs"], batch_size=line["batch_size"], rate=line["rate"],
        smoothing=line["smoothing"], rank=line.get("rank", 4), targets=Targets(line.get("targets", "all")),
    )  # fmt: skip
    job = Adapt(encoder(tiny, found), Method(line["method"]), recipe, asked.batch_size or 8)
    alone = job.learn(Session(cast("Any", Told()), cast("Any", NoCheckpoints()), done))
    assert alone is not None
    torch.testing.assert_close(done["best_trial"].valid, alone.valid, rtol=0, atol=1e-5)
    chosen = Climbed(done["best_trial"], "", None, [], 0, done)
    reporter = Told()
    told = learned_again(path, found, chosen, session(reporter, chosen)).outcome.model
    wanted = learned_again([job], found, replace(chosen, outcome=alone), session(Told(), chosen)).outcome.model
    torch.testing.assert_close(told.outputs(found.validation), wanted.outputs(found.validation), rtol=0, atol=1e-5)
    assert not reporter.notes


@pytest.mark.slow
def test_the_search_keeps_its_place_where_two_views_are_surely_worse(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.engine.outcome.Comparison.no_loss", property(lambda _: False))
    assert attempts.run(**SEARCH) is EventKind.SUCCEEDED
    report = attempts.last(EventKind.SUCCEEDED)["report"]
    assert report["rung"] == "search"
    assert "gains too little over the search" in report["why"]


@pytest.mark.slow
def test_without_two_views_the_best_trial_is_the_model(attempts: Attempts) -> None:
    assert attempts.run(**SEARCH, consistency=0) is EventKind.SUCCEEDED
    assert list(board(attempts)) == ["probe", "search"]


@pytest.mark.slow
@pytest.mark.parametrize("epochs_done", [0, 1])
def test_paused_in_it_a_job_ends_as_one_that_was_not_and_searches_no_second_time(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch, epochs_done: int
) -> None:
    assert attempts.run(1, **SEARCH) is EventKind.SUCCEEDED
    left = iter(range(1 + 3 * epochs_done))
    searched = list[bool]()
    best = Hunt.best

    def hunted(hunt: Hunt) -> Any:
        found = best(hunt)
        searched.append(True)
        return found

    def stop() -> str | None:
        return "pause" if searched and next(left, None) is None else None

    monkeypatch.setattr(Hunt, "best", hunted)
    assert attempts.run(2, stop=stop, **SEARCH) is EventKind.PAUSED
    kept = attempts.last(EventKind.CHECKPOINT, 2)
    assert kept["rung"] == "lora"
    monkeypatch.setattr(Hunt, "best", None)
    assert attempts.run(3, resume=f"2/{kept['path']}", **SEARCH) is EventKind.SUCCEEDED
    whole, resumed = (attempts.folder(n) for n in (1, 3))
    assert whole["head.safetensors"] == resumed["head.safetensors"]
    assert whole["adapter_model.safetensors"] == resumed["adapter_model.safetensors"]
    lines = [board(attempts, n)["search"]["trials"] for n in (1, 3)]
    timeless = [[{k: v for k, v in line.items() if k != "device_ms"} for line in each] for each in lines]
    assert timeless[0] == timeless[1]


@pytest.mark.slow
def test_a_budget_that_ends_in_it_leaves_the_search_s_model(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    best, check = Hunt.best, Reporter.check
    searched = list[bool]()

    def hunted(hunt: Hunt) -> Any:
        found = best(hunt)
        searched.append(True)
        return found

    def until(reporter: Reporter, step: int) -> None:
        check(reporter, step)
        if searched:
            raise BudgetReached("used up")

    monkeypatch.setattr(Hunt, "best", hunted)
    monkeypatch.setattr(Reporter, "check", until)
    assert attempts.run(**SEARCH) is EventKind.SUCCEEDED
    assert attempts.last(EventKind.SUCCEEDED)["report"]["rung"] == "search"
    assert "left_out" in board(attempts)["best_trial"]


def test_in_little_memory_it_takes_fewer_rows_at_once_to_the_last(tiny: Base) -> None:
    asked = OPTIONS.model_copy(update={"trials": 3, "method": Method.LAST_LAYERS})
    [*_, search, best] = encoder_path([replace(encoder(tiny, split()), options=asked)])
    assert best.rows_at_once == 8
    sizes = [best]
    while smaller := sizes[-1].smaller():
        sizes.append(smaller)
    assert [each.rows_at_once for each in sizes] == [8, 4, 2, 1]
    needs = [each.need(5) for each in sizes]
    assert needs == sorted(needs, reverse=True)
    assert needs[0] > needs[-1]
    layers = replace(encoder(tiny, split()).recipe, layers=LAYERS)
    assert best.need(5) >= Adapt(encoder(tiny, split()), Method.LAST_LAYERS, layers, 8).need(5)
    assert search.passes() > 0
    assert best.passes() == pytest.approx(3 * (3 * 2 * len(split().train) + len(split().validation)))
