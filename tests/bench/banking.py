"""banking77 as the benchmarks of learning read it: rows, and lessons cut from them by lot."""

import csv
import os
from collections import defaultdict
from pathlib import Path
from typing import cast

import torch
from tilth.contract.messages import Row, TrainingOptions

from inference.engine.base_models import Base
from inference.engine.candidate import Lesson
from inference.engine.encoder import TextEncoder
from inference.engine.objectives.single_label import SingleLabel
from inference.tasks.naming import spoken

DATA = Path(os.environ.get("TILTH_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")) / "banking77"
MAX_TOKENS = 128


def missing() -> list[dict[str, str]]:
    """The only line of a table where the data are not there."""
    return [] if (DATA / "train.csv").exists() else [{"way": f"not run: {DATA} is not there (TILTH_DATA)"}]


def rows(part: str) -> list[Row]:
    """Of ``train`` or ``test``."""
    with (DATA / f"{part}.csv").open(newline="") as file:
        return [{"text": row["text"], "label": row["category"]} for row in csv.DictReader(file)]


def labels() -> tuple[str, ...]:
    """All 77, sorted."""
    return tuple(sorted({str(row["label"]) for row in rows("train")}))


def drawn(seed: int, *counts: int) -> list[list[Row]]:
    """Parts of the training rows, each with so many of every label, by lot."""
    train = rows("train")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).tolist()
    of_label: dict[str, list[Row]] = defaultdict(list)
    for at in order:
        of_label[str(train[at]["label"])].append(train[at])
    parts, start = [], 0
    for count in counts:
        parts.append([row for found in of_label.values() for row in found[start : start + count]])
        start += count
    return parts


def lesson(train: list[Row], validation: list[Row], seed: int = 0) -> Lesson:
    """Of labels that training has."""
    objective = SingleLabel(labels())
    targets = [objective.targets([str(row["label"]) for row in part]) for part in (train, validation)]
    return Lesson(train, validation, targets[0], targets[1], objective, seed)


def encoder(base: Base, found: Lesson, options: TrainingOptions) -> TextEncoder:
    """The base over a lesson."""
    names: dict[int, Row] = {at: {"text": name} for at, name in spoken(labels()).items()}
    return TextEncoder(
        base, found, lambda some: base.encode([cast("str", row["text"]) for row in some], MAX_TOKENS), options, names
    )
