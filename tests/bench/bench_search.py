"""A search of 16 configurations beside the same 16 as full runs in sequence: seconds, and test accuracy at the end."""

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
from inference.engine.probe import Probe
from inference.engine.reporting import Reporter
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
    found = Search((encoder,), trials, encoder.recipe.batch_size * TOGETHER).learn(session)
    searched = time.monotonic() - began
    began = time.monotonic()
    board = cast("Outcome", found).facts["trials"]
    runs = [alone(encoder, line, session) for line in board]
    sequence = time.monotonic() - began
    best = max((each for each in runs if each), key=lambda each: score(each, encoder))
    test = banking.rows("test") if full else banking.rows("test")[:400]
    ours, theirs, plain = (judged(each, encoder, test) for each in (cast("Outcome", found), best, probe))
    return [
        {"way": "the probe, for both", "seconds": f"{probed:,.0f}", "test accuracy": f"{100 * plain:.2f} %"},
        {"way": f"the search, {trials} trials", "seconds": f"{searched:,.0f}", "test accuracy": f"{100 * ours:.2f} %"},
        {
            "way": "the same configurations as full runs in sequence", "seconds": f"{sequence:,.0f}",
            "test accuracy": f"{100 * theirs:.2f} %", "÷ the search": f"{sequence / searched:.2f}", "goal": "≥ 3",
        },
        {"way": "the search's accuracy less the best full run's", "test accuracy": f"{100 * (ours - theirs):+.2f}",
         "goal": "≥ -0.5"},
    ]  # fmt: skip


def alone(encoder: TextEncoder, line: dict[str, Any], session: Session) -> Outcome | None:
    """One configuration of the board as a job of its own would run it, from the same probe."""
    numbers = {name: line[name] for name in ("rate", "rank", "smoothing", "epochs", "batch_size")}
    recipe = replace(encoder.recipe, targets=Targets(line["targets"]), **numbers)
    return Adapt(encoder, Method.LORA, recipe, recipe.batch_size).learn(session)


def score(outcome: Outcome, encoder: TextEncoder) -> float:
    """On validation, which chooses."""
    return encoder.lesson.objective.score(outcome.valid, encoder.lesson.validation_targets)


def judged(outcome: Outcome, encoder: TextEncoder, test: list[Any]) -> float:
    """On the test rows."""
    targets = banking.lesson(test, test).train_targets
    return accuracy(outcome.model.outputs(test).argmax(1), targets)
