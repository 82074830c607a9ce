"""A search of 16 configurations beside the same 16 as full runs in sequence: seconds, and test accuracy at the end.

The search's trials see each row once, its best then learns from two views of each, as every full run does.
"""

import os
import time
from dataclasses import replace
from typing import Any, cast

import torch
from tilth.contract.learning import Method, Targets
from tilth.contract.messages import TrainingOptions
from tilth.contract.registry import vertical

from inference.engine import limits
from inference.engine.adapting.climb import Adapt
from inference.engine.base_models import load_base
from inference.engine.candidate import Outcome, Session
from inference.engine.encoder import TextEncoder
from inference.engine.evaluate import accuracy
from inference.engine.keeping import Keeper
from inference.engine.outcome import compare
from inference.engine.probe import Probe
from inference.engine.reporting import Reporter
from inference.engine.search.best import BestTrial
from inference.engine.search.candidate import Search
from inference.engine.search.sampler import TOGETHER
from tests.bench import banking
from tests.bench.silent import NoCheckpoints, Silent

NAME = "search"


def run(*, full: bool) -> list[dict[str, str]]:
    """In full: 16 trials on 20 rows of each intent, five epochs at most. In short: 4 trials on 3 rows, one epoch."""
    if absent := banking.missing():
        return absent
    torch.set_num_threads(os.cpu_count() or 1)
    limits.keep_freed()
    base = load_base(vertical("support_chat").base_models[0])
    trials, counts, epochs = (16, (20, 8), 5) if full else (4, (3, 2), 2)
    options = TrainingOptions(method=Method.LORA, epochs=epochs)
    train, validation = banking.drawn(0, *counts)
    encoder = banking.encoder(base, banking.lesson(train, validation), options)
    session = Session(cast("Reporter", Silent()), cast("Keeper", NoCheckpoints()), {})
    began = time.monotonic()
    probe = Probe(encoder).learn(session)
    probed = time.monotonic() - began
    session = replace(session, done={"probe": probe})
    began = time.monotonic()
    search = Search((encoder,), trials, encoder.recipe.batch_size * TOGETHER)
    found = cast("Outcome", search.learn(session))
    tried = time.monotonic() - began
    session = replace(session, done={"probe": probe, search.name: found})
    again = cast("Outcome", BestTrial(search, encoder.recipe.batch_size).learn(session))
    searched = time.monotonic() - began
    chosen = again if compare(again, found, encoder.lesson).no_loss else found
    began = time.monotonic()
    board = found.facts["trials"]
    runs = [alone(encoder, trial, session) for trial in board]
    sequence = time.monotonic() - began
    best = max((each for each in runs if each), key=lambda each: score(each, encoder))
    test = banking.rows("test") if full else banking.rows("test")[:400]
    ours, left, theirs, plain = (judged(each, encoder, test) for each in (chosen, found, best, probe))
    return [
        line("the probe, for both", probed, plain),
        line("the search's best trial as it was left", tried, left),
        line(f"the search, {trials} trials, the best again in two views", searched, ours),
        line("the same configurations as full runs in sequence", sequence, theirs)
        | {"÷ the search": f"{sequence / searched:.2f}", "goal": "≥ 3"},
        {"way": "the search's accuracy less the best full run's", "test accuracy": f"{100 * (ours - theirs):+.2f}",
         "goal": "≥ -0.5"},
    ]  # fmt: skip


def line(way: str, seconds: float, found: float) -> dict[str, str]:
    """Of the table."""
    return {"way": way, "seconds": f"{seconds:,.0f}", "test accuracy": f"{100 * found:.2f} %"}


def alone(encoder: TextEncoder, trial: dict[str, Any], session: Session) -> Outcome | None:
    """One configuration of the board as a job of its own would run it, from the same probe."""
    numbers = {name: trial[name] for name in ("rate", "rank", "smoothing", "epochs", "batch_size")}
    recipe = replace(encoder.recipe, targets=Targets(trial["targets"]), **numbers)
    return Adapt(encoder, Method.LORA, recipe, recipe.batch_size).learn(session)


def score(outcome: Outcome, encoder: TextEncoder) -> float:
    """On validation, which chooses."""
    return encoder.lesson.objective.score(outcome.valid, encoder.lesson.validation_targets)


def judged(outcome: Outcome, encoder: TextEncoder, test: list[Any]) -> float:
    """On the test rows."""
    targets = banking.lesson(test, test).train_targets
    return accuracy(outcome.model.outputs(test).argmax(1), targets)
