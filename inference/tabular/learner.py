"""A way to learn a table, and the candidate that it makes for the ladder."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from tilth.contract.learning import Rung
from tilth.contract.messages import Row, ServedBy
from torch import Tensor

from inference.engine.candidate import Outcome, Session
from inference.engine.objectives.objective import Objective
from inference.engine.probe import report_scores
from inference.engine.task import Answered
from inference.tabular.columns import Cells, Columns
from inference.tabular.table import TableLesson

FEW_ROWS = 20_000
"""Up to which a table's threads wait for each other longer than they work."""


@contextmanager
def _threads(rows: int) -> Iterator[None]:
    """One thread for a small table."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if rows <= FEW_ROWS else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class TableModel(Protocol):
    """A model of a table's rows."""

    def of(self, cells: Sequence[Cells]) -> Tensor:
        """Outputs [rows, width]."""

    def files(self) -> dict[str, bytes]:
        """What ``Learner.reopen`` reads."""


@dataclass(frozen=True)
class WholeTable:
    """A table's model as a host has it; ``held``: bytes of its files, which its memory is about."""

    model: TableModel
    cells: Callable[[Row], Cells]
    held: int

    def answer(self, rows: Sequence[Row]) -> Answered:
        """Row by row as the task reads them."""
        return Answered(self.model.of([self.cells(row) for row in rows]))


@dataclass(frozen=True)
class Fitted:
    """What a learner gives."""

    model: TableModel
    crossed: Tensor
    """[rows that are learned from, width], each row by a model that has not seen it."""
    facts: dict[str, Any] = field(default_factory=dict)


class Learner(Protocol):
    """One way; open set, by name in ``inference.tasks.tabular``."""

    @property
    def name(self) -> str:
        """Unique."""

    @property
    def title(self) -> str:
        """In a sentence."""

    def suits(self, objective: Objective) -> bool:
        """Whether it can learn that."""

    def fit(self, table: TableLesson, session: Session) -> Fitted:
        """Learns; the reporter is asked between two fits whether to stop."""

    def reopen(self, columns: Columns, width: int, files: Mapping[str, bytes]) -> TableModel:
        """From the model's files."""


@runtime_checkable
class Heavy(Protocol):
    """A learner whose models take much beside the table's copies."""

    def held(self, rows: int, width: int) -> int:
        """Bytes, at the fullest moment, of models of so many rows and outputs."""


@dataclass(frozen=True)
class Learned:
    """The engine's view of a table's model."""

    model: TableModel
    table: TableLesson
    kind: str
    served_by = ServedBy.WHOLE
    base = None

    def outputs(self, rows: Sequence[Row]) -> Tensor:
        """[rows, width]."""
        return self.model.of(self.table.read(rows)).float()

    def files(self) -> dict[str, bytes]:
        """The model's own."""
        return self.model.files()


@dataclass(frozen=True)
class TableCandidate:
    """The engine's view of a learner."""

    table: TableLesson
    learner: Learner
    rung: Rung = Rung.PROBE
    rows_at_once: int | None = None

    @property
    def name(self) -> str:
        """The learner's."""
        return self.learner.name

    @property
    def title(self) -> str:
        """The learner's."""
        return self.learner.title

    def size(self) -> str:
        """Rows, columns, outputs."""
        return self.table.size()

    def need(self, tests: int) -> int:
        """Of the table's copies, and of models that take much beside them."""
        lesson, own = self.table.lesson, 0
        if isinstance(self.learner, Heavy):
            own = self.learner.held(len(lesson.train) + len(lesson.validation), lesson.objective.width)
        return self.table.bytes(tests) + own

    @property
    def dispensable(self) -> bool:
        """Others read the same table with less."""
        return isinstance(self.learner, Heavy)

    def smaller(self) -> None:
        """The table is what it is."""

    def passes(self) -> float:
        """A pass over a table costs next to nothing beside one through an encoder."""
        return 0.1 * len(self.table.lesson.train)

    def learn(self, session: Session) -> Outcome:
        """Told as one step."""
        with _threads(len(self.table.rows)):
            fitted = self.learner.fit(self.table, session)
        model = Learned(fitted.model, self.table, self.name)
        crossed, valid = self._judged(model, fitted.crossed)
        title = self.title.removeprefix("the ").capitalize()
        report_scores(session.reporter, self.table.lesson, title, self.name, 0, valid)
        session.reporter.work(self.passes())
        return Outcome(self.name, self.rung, model, valid, crossed, 0, fitted.facts)

    def _judged(self, model: Learned, crossed: Tensor) -> tuple[Tensor, Tensor]:
        """(of training, of validation): rows of validation that nothing is known of were not learned from."""
        lesson = self.table.lesson
        valid = torch.empty(len(lesson.validation), lesson.objective.width)
        valid[lesson.known] = crossed[len(lesson.train) :]
        if not lesson.known.all():
            others = [row for row, known in zip(lesson.validation, lesson.known.tolist(), strict=True) if not known]
            valid[~lesson.known] = model.outputs(others)
        return crossed[: len(lesson.train)], valid

    def reopen(self, files: Mapping[str, bytes]) -> Learned:
        """By the learner."""
        width = self.table.lesson.objective.width
        return Learned(self.learner.reopen(self.table.columns, width, files), self.table, self.name)
