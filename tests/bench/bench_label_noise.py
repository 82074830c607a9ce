"""Label-noise suspects on banking77: 5 % of the labels flipped by lot; how many of those listed are flipped."""

import os
from dataclasses import replace

import torch
from tilth.contract.registry import vertical
from torch import Tensor

from inference.engine.base_models import load_base
from inference.engine.candidate import Lesson
from inference.engine.crossing import crossed, folds
from inference.engine.doubts import suspects
from inference.engine.fitting import Taught, fit_linear, fit_probe
from inference.engine.heads import Head
from inference.engine.probe import frozen_features
from tests.bench import banking
from tests.bench.bench_training import read

NAME = "label_noise"
SHARE = 20
"""One label in so many is flipped."""
GOAL = 0.6


def run(*, full: bool) -> list[dict[str, str]]:
    """One line for each lot."""
    if absent := banking.missing():
        return absent
    torch.set_num_threads(os.cpu_count() or 1)
    base = load_base(vertical("support_chat").base_models[0])
    data = read(base)
    train, valid = (frozen_features(base, part, lambda _: None) for part in (data.train, data.validation))
    lesson = data.lesson()
    rows = [{**row, "line": at} for at, row in enumerate(lesson.train)]
    return [line(replace(lesson, train=rows), train, valid, lot) for lot in range(3 if full else 1)]


def line(lesson: Lesson, train: Tensor, valid: Tensor, lot: int) -> dict[str, str]:
    """Precision and recall of what would be listed, the surest 200 of it in the report."""
    generator, width = torch.Generator().manual_seed(lot), lesson.objective.width
    flipped = torch.randperm(len(train), generator=generator)[: len(train) // SHARE]
    targets = lesson.train_targets.clone()
    targets[flipped] = (targets[flipped] + torch.randint(1, width, (len(flipped),), generator=generator)) % width
    noisy = replace(lesson, train_targets=targets)
    start = Head(torch.zeros(width, train.shape[1]), torch.zeros(width))
    fitted = fit_probe(Taught(train, targets), valid, lesson.validation_targets, start, lesson.objective)

    def fit(learns: Tensor, held: Tensor) -> Head:
        return fit_linear(train[learns], targets[learns], fitted.strength, fitted.head, lesson.objective)

    _, outputs = crossed(folds(targets, 0), width, fit, lambda one, held: one.logits(train[held]))
    found = suspects(outputs, noisy)
    if found is None:
        raise AssertionError("banking77 has labels")
    listed, wrong = {row["line"] for row in found["rows"]}, set(flipped.tolist())
    return {
        "lot": str(lot), "flipped": f"{len(wrong):,}", "suspected": f"{found['count']:,}", "listed": str(len(listed)),
        "of the listed flipped": f"{len(listed & wrong) / len(listed):.2f}", "goal": f"≥ {GOAL}",
    }  # fmt: skip
