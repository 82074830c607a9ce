"""What a task is: only what is particular to a problem; everything general is the engine's."""

import importlib
from dataclasses import dataclass
from typing import Protocol

from pydantic import JsonValue
from tilth.contract.messages import Prediction, Row
from tilth.contract.vertical import Vertical
from torch import Tensor

from inference.engine.base_models import Base

Features = dict[str, JsonValue]
"""Label map, lengths, thresholds: plain data, saved beside the adapter as JSON."""


@dataclass(frozen=True)
class Examples:
    """Encoded rows: token ids per row, unpadded, and class indices [rows] (-1: no class of the model's)."""

    ids: list[list[int]]
    targets: Tensor

    def __len__(self) -> int:
        return len(self.ids)


class Task(Protocol):
    """How one kind of problem is learned over a text encoder."""

    def features(self, rows: list[Row]) -> Features:
        """What the training rows fix: labels, lengths. Raises JobFault if nothing can be learned."""

    def encode(self, rows: list[Row], features: Features, base: Base) -> Examples:
        """Rows as the base reads them."""

    def classes(self, features: Features) -> int:
        """Width of the head."""

    def texts(self, rows: list[Row]) -> list[str]:
        """One text per row, for the baselines."""

    def label(self, row: Row) -> str | None:
        """The row's class; None if it is out of scope."""

    def answer(self, logits: Tensor, features: Features) -> list[Prediction]:
        """Predictions from logits [rows, classes] as the head gives them."""


def load_task(face: Vertical) -> Task:
    """The task behind a face's ``module:Class``, made for its schema; a plugin's import error is not swallowed."""
    module, _, name = face.task.partition(":")
    task: Task = getattr(importlib.import_module(module), name)(face.schema_)
    return task
