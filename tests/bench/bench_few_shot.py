"""banking77 with five and ten rows of each intent, by ten lots: mean test accuracy beside what is published."""

import os
from statistics import mean, stdev
from typing import Any, cast

import torch
from tilth.contract.messages import TrainingOptions
from tilth.contract.registry import vertical

from inference.engine import limits
from inference.engine.again import learned_again
from inference.engine.base_models import Base, load_base
from inference.engine.candidate import Session
from inference.engine.evaluate import accuracy
from inference.engine.keeping import Keeper
from inference.engine.ladder import Ladder
from inference.engine.reporting import Reporter
from inference.tasks.text import encoder_path
from tests.bench import banking
from tests.bench.silent import NoCheckpoints, Silent

NAME = "few_shot"
PUBLISHED = {5: 80.86, 10: 87.20}
"""CPFT (Zhang et al. 2021, table 2)."""


def run(*, full: bool) -> list[dict[str, str]]:
    """In full: ten lots of each. In short: one lot of five, the probe alone."""
    if absent := banking.missing():
        return absent
    torch.set_num_threads(os.cpu_count() or 1)
    limits.keep_freed()
    base = load_base(vertical("support_chat").base_models[0])
    test = banking.rows("test")
    if not full:
        return [line(5, [learned(base, 5, 0, test, {"method": "probe"})])]
    return [line(shots, [learned(base, shots, seed, test, {}) for seed in range(10)]) for shots in PUBLISHED]


def learned(base: Base, shots: int, seed: int, test: list[Any], options: dict[str, Any]) -> dict[str, float]:
    """Test accuracy by name of what learned; one row in five of each intent is validation's, as few as they are."""
    held = max(1, shots // 5)
    train, validation = banking.drawn(seed, shots - held, held)
    lesson = banking.lesson(train, validation, seed)
    asked = TrainingOptions(seed=seed, **options)
    path = encoder_path([banking.encoder(base, lesson, asked)], crossed=True)
    path = [each for each in path if each.rung <= asked.top] if options else path[:2]
    reporter, keeper = cast("Reporter", Silent()), cast("Keeper", NoCheckpoints())
    climbed = Ladder(path, lesson, asked, reporter, keeper).climb()
    again = learned_again(path, lesson, climbed, Session(reporter, keeper, climbed.done))
    targets = banking.lesson(test, test).train_targets
    found = {name: accuracy(each.model.outputs(test).argmax(1), targets) for name, each in climbed.done.items()}
    last = accuracy(again.outcome.model.outputs(test).argmax(1), targets)
    print(f"  {shots} rows, lot {seed}: {found}, chosen {climbed.outcome.name}: {last}", flush=True)
    return {**found, "the chosen, again from all rows": last}


def line(shots: int, lots: list[dict[str, float]]) -> dict[str, str]:
    """Mean and spread over the lots."""
    made = {"rows of each intent": str(shots), "lots": str(len(lots))}
    for name in lots[0]:
        values = [100 * lot[name] for lot in lots if name in lot]
        spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
        made[name] = f"{mean(values):.2f} %{spread}"
    return made | {"goal": f"≥ {PUBLISHED[shots]:.2f} (CPFT)"}
