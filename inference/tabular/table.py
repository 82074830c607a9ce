"""A lesson as a table: what every candidate without a base model learns from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy
import torch
from numpy.typing import NDArray
from tilth.contract.messages import Row
from torch import Tensor

from inference.engine.candidate import Lesson
from inference.engine.crossing import folds, groups_of
from inference.engine.objectives.objective import Objective
from inference.engine.spill import joined, mapped, picked
from inference.tabular.columns import Cells, Columns

CELL_BYTES = 8
COPIES = 6
"""Of the table at the fullest moment: as read, as numbers, as the folds' parts and the solver's own."""


@dataclass(frozen=True)
class TableLesson:
    """The lesson's rows through the columns; each view is made once."""

    lesson: Lesson
    columns: Columns
    cells: Callable[[Row], Cells]

    @cached_property
    def rows(self) -> Sequence[Cells]:
        """Cells of all rows that are learned from: of training, and of validation where a target is known.

        Each is judged by a model that has not seen it, so validation need not stand aside.
        """
        return self.read(self._learned)

    @cached_property
    def targets(self) -> Tensor:
        """[rows]."""
        return torch.cat([self.lesson.train_targets, self.lesson.validation_targets[self.lesson.known]])

    @cached_property
    def weights(self) -> Tensor:
        """[rows]: how much each counts."""
        return self.objective.weights_of(self.targets)

    @cached_property
    def folds(self) -> Tensor:
        """[rows]: the fold of each."""
        return folds(self.targets, self.lesson.seed, groups_of(self._learned))

    @property
    def _learned(self) -> Sequence[Row]:
        return joined(self.lesson.train, picked(self.lesson.validation, self.lesson.known))

    @property
    def objective(self) -> Objective:
        """The lesson's."""
        return self.lesson.objective

    @cached_property
    def table(self) -> NDArray[numpy.float64]:
        """``Columns.table`` of the rows."""
        return self.columns.table(self.rows)

    @cached_property
    def dense(self) -> Tensor:
        """``Columns.dense`` of the rows."""
        return self.columns.dense(self.rows)

    def read(self, rows: Sequence[Row]) -> Sequence[Cells]:
        """Cells of rows."""
        return mapped(rows, self.cells)

    def size(self) -> str:
        """In a sentence."""
        rows = len(self.lesson.train) + len(self.lesson.validation)
        return f"{rows:,} rows of {len(self.columns.all)} columns and {self.lesson.objective.width:,} outputs"

    def bytes(self, tests: int) -> int:
        """Of the table, one number for each category, as often as it is held."""
        rows = len(self.lesson.train) + len(self.lesson.validation) + tests
        width = len(self.columns.all) + sum(1 + len(column.categories) for column in self.columns.chosen)
        return COPIES * CELL_BYTES * rows * (width + self.lesson.objective.width)
