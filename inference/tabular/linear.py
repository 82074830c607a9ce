"""Linear models of a table: logistic regression of labels, Huber regression of numbers, with a ridge penalty."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from safetensors.torch import load, save
from torch import Tensor

from inference.engine.candidate import Session
from inference.engine.crossing import crossed
from inference.engine.fitting import fit_linear
from inference.engine.heads import Head
from inference.engine.objectives.objective import Objective
from inference.tabular.columns import Cells, Columns
from inference.tabular.learner import Fitted
from inference.tabular.table import TableLesson

STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Inverse regularisation C, as scikit-learn counts it; chosen by cross-fitting."""
LEAST_CHANGE = 1e-6
"""Of the loss between two steps of the solver."""
FILE = "linear.safetensors"


@dataclass(frozen=True)
class LinearModel:
    """A head on the dense columns."""

    columns: Columns
    head: Head

    def of(self, cells: Sequence[Cells]) -> Tensor:
        """[rows, width]."""
        return self.head.logits(self.columns.dense(cells))

    def files(self) -> dict[str, bytes]:
        """Weight and bias."""
        return {FILE: save({"weight": self.head.weight.contiguous(), "bias": self.head.bias.contiguous()})}


@dataclass(frozen=True)
class Linear:
    """The learner."""

    name: str = "linear"
    title: str = "the linear model"

    def suits(self, objective: Objective) -> bool:
        """Anything."""
        return True

    def fit(self, table: TableLesson, session: Session) -> Fitted:
        """The strength that scores best when cross-fitted, then all rows."""
        dense, objective = table.dense, table.objective
        start = Head(torch.zeros(objective.width, dense.shape[1]), torch.zeros(objective.width))
        best: tuple[float, Tensor, float] | None = None
        for strength in STRENGTHS:
            session.reporter.check(session.keeper.step)
            fit = _solver(table, strength, start)
            members, outputs = crossed(table.folds, objective.width, fit, lambda one, rows: one.logits(dense[rows]))
            start = members[-1]
            score = objective.score(outputs, table.targets)
            if best is None or score > best[0]:
                best = (score, outputs, strength)
        if best is None:
            raise AssertionError("STRENGTHS is not empty")
        every = torch.arange(len(dense))
        model = LinearModel(table.columns, _solver(table, best[2], start)(every, every))
        return Fitted(model, best[1], {"strength": best[2]})

    def reopen(self, columns: Columns, width: int, files: Mapping[str, bytes]) -> LinearModel:
        """Weight and bias."""
        return LinearModel(columns, Head(**load(files[FILE])))


def _solver(table: TableLesson, strength: float, start: Head) -> Callable[[Tensor, Tensor], Head]:
    """A fit is convex: ``start`` says only how far the way is."""
    dense, targets, objective = table.dense, table.targets, table.objective

    def fit(rows: Tensor, held: Tensor) -> Head:
        return fit_linear(dense[rows], targets[rows], strength, start, objective, least_change=LEAST_CHANGE)

    return fit
