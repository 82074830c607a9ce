"""What a task is: only what is particular to a problem; everything general is the engine's."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from pydantic import JsonValue
from tilth.contract.messages import Prediction, Row, TrainingOptions
from tilth.contract.vertical import Vertical
from torch import Tensor

from inference.engine.base_models import Base
from inference.engine.candidate import Candidate, Lesson
from inference.engine.objectives.objective import Objective
from inference.engine.spill import Ragged

Features = dict[str, JsonValue]
"""Label map, lengths, scales, thresholds: plain data, saved beside the model as JSON."""


class Task(Protocol):
    """How one kind of problem is learned and answered."""

    def features(self, rows: Sequence[Row], kinds: Mapping[str, str]) -> Features:
        """What the training rows fix, ``kinds`` being those of free columns. Raises JobFault if nothing differs."""

    def objective(self, features: Features) -> Objective:
        """What is learned."""

    def targets(self, rows: Sequence[Row], features: Features) -> Tensor:
        """[rows]: the objective's targets; unknown where a row has none."""

    def candidates(
        self, lesson: Lesson, features: Features, bases: Sequence[Base], options: TrainingOptions
    ) -> list[Candidate]:
        """What may learn it, cheapest first; of several bases the job's own comes first, a search tries the others."""

    def answer(self, outputs: Tensor, features: Features) -> list[Prediction]:
        """Predictions from outputs [rows, width]; ``features`` hold what calibration settled, too."""


@runtime_checkable
class Encodes(Protocol):
    """A task whose rows an encoder of texts can read."""

    def encode(self, rows: Sequence[Row], features: Features, base: Base) -> list[list[int]]:
        """Token ids of each row, unpadded."""


@dataclass(frozen=True)
class Answered:
    """Outputs [rows, width] of rows as customers send them, and the tokens that were read of each (none of a table)."""

    outputs: Tensor
    tokens: tuple[int, ...] = ()


class Whole(Protocol):
    """A whole model that can answer."""

    @property
    def held(self) -> int:
        """Bytes of memory that it takes for itself."""

    def answer(self, rows: Sequence[Row]) -> Answered:
        """Of those rows."""


@runtime_checkable
class Reopens(Protocol):
    """A task some of whose models are whole: no adapter of a base."""

    def reopen(self, kind: str, files: Mapping[str, bytes], features: Features, base: Callable[[], Base]) -> Whole:
        """The model of that kind from its folder's files, as its candidate packed it."""


@runtime_checkable
class Compares(Protocol):
    """A task that puts a plain way beside the model, for the report alone."""

    def baseline_bytes(self, rows: Sequence[Row]) -> int:
        """Memory that it takes."""

    def baseline(self, lesson: Lesson, rows: Sequence[Row], targets: Tensor) -> dict[str, float]:
        """Scores of rows with known targets, by the plain way's name."""


@dataclass(frozen=True)
class Examples:
    """Encoded rows: token ids per row, unpadded, and targets [rows]."""

    ids: Sequence[list[int]]
    targets: Tensor

    @cached_property
    def lengths(self) -> Tensor:
        """[rows] tokens of each."""
        return self.ids.lengths if isinstance(self.ids, Ragged) else torch.tensor([len(row) for row in self.ids])

    def __len__(self) -> int:
        return len(self.ids)


def load_task(face: Vertical) -> Task:
    """The task behind a face's ``module:Class``, made for it; a plugin's import error is not swallowed."""
    module, _, name = face.task.partition(":")
    task: Task = getattr(importlib.import_module(module), name)(face)
    return task
