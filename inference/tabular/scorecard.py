"""The scorecard of credit risk: bins, weights of evidence, one logistic regression, points (Siddiqi 2006)."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy
import torch
from torch import Tensor

from inference.engine.candidate import Session
from inference.engine.crossing import crossed
from inference.engine.fitting import fit_linear
from inference.engine.heads import Head
from inference.engine.objectives.objective import Objective
from inference.engine.objectives.single_label import SingleLabel
from inference.tabular.columns import UNKNOWN, Cells, Columns
from inference.tabular.learner import Fitted
from inference.tabular.table import TableLesson

MOST_BINS = 5
LEAST_SHARE = 0.05
"""Of the rows in a bin of a number."""
PRIOR_ROWS = 10.0
"""A bin's odds are drawn to those of all rows as if it had so many more (Laplace smoothing)."""
STRENGTH = 1.0
BASE_POINTS, BASE_ODDS, DOUBLING = 600, 50, 20
"""A score of BASE_POINTS means BASE_ODDS : 1 for the first label; each DOUBLING points double the odds."""
FILE = "scorecard.json"


@dataclass(frozen=True)
class Bins:
    """One column: edges of a number's bins, or nothing for a category, and each bin's weight of evidence.

    Bin 0 is for what is missing or unknown.
    """

    name: str
    edges: tuple[float, ...]
    evidence: tuple[float, ...]


@dataclass(frozen=True)
class ScorecardModel:
    """A linear model of the columns' weights of evidence; its log-odds are the second label's."""

    columns: Columns
    bins: tuple[Bins, ...]
    weights: tuple[float, ...]
    intercept: float

    def of(self, cells: Sequence[Cells]) -> Tensor:
        """[rows, 2]."""
        evidence = _evidence(self.bins, _places(self.columns, self.bins, cells))
        odds = evidence @ torch.tensor(self.weights, dtype=torch.double) + self.intercept
        return torch.stack([torch.zeros_like(odds), odds], dim=1).float()

    def files(self) -> dict[str, bytes]:
        """JSON that people can read: bins, weights, points."""
        facts = {"intercept": self.intercept, "weights": self.weights, "bins": [asdict(each) for each in self.bins]}
        return {FILE: json.dumps({**facts, "points": self.points()}, indent=1).encode()}

    def points(self) -> dict[str, list[int]]:
        """Points of each bin, the higher the likelier the first label; their sum is the score."""
        factor = DOUBLING / math.log(2)
        share = (BASE_POINTS - factor * math.log(BASE_ODDS) - factor * self.intercept) / max(1, len(self.bins))
        return {
            each.name: [round(share - factor * weight * value) for value in each.evidence]
            for each, weight in zip(self.bins, self.weights, strict=True)
        }


@dataclass(frozen=True)
class Scorecard:
    """The learner, of two labels."""

    name: str = "scorecard"
    title: str = "the scorecard"

    def suits(self, objective: Objective) -> bool:
        """Two labels."""
        return isinstance(objective, SingleLabel) and objective.width == 2

    def fit(self, table: TableLesson, session: Session) -> Fitted:
        """Bins, evidence and weights of all rows; judged by cards of the folds."""
        session.reporter.check(session.keeper.step)
        bad = (table.targets == 1).numpy()

        def cells(rows: Tensor) -> Sequence[Cells]:
            return [table.rows[row] for row in rows.tolist()]

        def card(rows: Tensor, _: Tensor) -> ScorecardModel:
            return _card(table.columns, cells(rows), bad[rows.numpy()], table.objective)

        _, outputs = crossed(table.folds, table.objective.width, card, lambda one, rows: one.of(cells(rows)))
        every = torch.arange(len(table.rows))
        model = card(every, every)
        return Fitted(model, outputs, {"bins": sum(len(each.evidence) for each in model.bins)})

    def reopen(self, columns: Columns, width: int, files: Mapping[str, bytes]) -> ScorecardModel:
        """From its JSON."""
        facts: dict[str, Any] = json.loads(files[FILE])
        bins = tuple(Bins(each["name"], tuple(each["edges"]), tuple(each["evidence"])) for each in facts["bins"])
        return ScorecardModel(columns, bins, tuple(facts["weights"]), float(facts["intercept"]))


def _card(columns: Columns, cells: Sequence[Cells], bad: Any, objective: Objective) -> ScorecardModel:
    numbers = columns.numbers(cells)
    plain = [Bins(column.name, _edges(numbers[:, at], bad), ()) for at, column in enumerate(columns.measured)]
    plain += [Bins(column.name, (), ()) for column in columns.chosen]
    places = _places(columns, plain, cells)
    sizes = [len(each.edges) + 2 for each in plain[: len(columns.measured)]]
    sizes += [len(column.categories) + 1 for column in columns.chosen]
    made = [
        Bins(each.name, each.edges, _weights_of_evidence(places[:, at], bad, sizes[at]))
        for at, each in enumerate(plain)
    ]
    head = _fit(_evidence(made, places), torch.from_numpy(bad).long(), objective)
    odds = head.weight[1] - head.weight[0]
    intercept = float(head.bias[1] - head.bias[0])
    return ScorecardModel(columns, tuple(made), tuple(odds.double().tolist()), intercept)


def _fit(evidence: Tensor, targets: Tensor, objective: Objective) -> Head:
    start = Head(torch.zeros(2, evidence.shape[1]), torch.zeros(2))
    return fit_linear(evidence.float(), targets, STRENGTH, start, objective)


def _edges(values: Any, bad: Any) -> tuple[float, ...]:
    """Where a small tree would cut the number: at most MOST_BINS bins, each with LEAST_SHARE of the rows."""
    from sklearn.tree import DecisionTreeClassifier

    there = ~numpy.isnan(values)
    if there.sum() < 2 or len(set(bad[there].tolist())) < 2:
        return ()
    least = max(1, int(LEAST_SHARE * there.sum()))
    tree = DecisionTreeClassifier(max_leaf_nodes=MOST_BINS, min_samples_leaf=least, random_state=0)
    tree.fit(values[there, None], bad[there])
    cuts = tree.tree_.threshold[tree.tree_.feature >= 0]
    return tuple(sorted(float(cut) for cut in cuts))


def _places(columns: Columns, bins: Sequence[Bins], cells: Sequence[Cells]) -> Any:
    """[rows, columns]: each cell's bin."""
    numbers, codes = columns.numbers(cells), columns.codes(cells)
    made = numpy.zeros((len(cells), len(bins)), dtype=numpy.int64)
    for at in range(len(columns.measured)):
        found = numpy.searchsorted(numpy.array(bins[at].edges), numbers[:, at]) + 1
        made[:, at] = numpy.where(numpy.isnan(numbers[:, at]), UNKNOWN, found)
    made[:, len(columns.measured) :] = codes
    return made


def _weights_of_evidence(places: Any, bad: Any, size: int) -> tuple[float, ...]:
    """ln of the odds of bad in each bin over those of all rows, smoothed."""
    rate = (float(bad.sum()) + 0.5) / (len(bad) + 1)  # never 0 or 1, if all rows are of one label
    hit = numpy.bincount(places, weights=bad, minlength=size) + PRIOR_ROWS * rate
    miss = numpy.bincount(places, weights=~bad, minlength=size) + PRIOR_ROWS * (1 - rate)
    return tuple(float(value) for value in numpy.log(hit / miss) - math.log(rate / (1 - rate)))


def _evidence(bins: Sequence[Bins], places: Any) -> Tensor:
    """[rows, columns]: each cell's weight of evidence."""
    columns = [numpy.array(each.evidence)[places[:, at]] for at, each in enumerate(bins)]
    return torch.from_numpy(numpy.stack(columns, axis=1) if columns else numpy.zeros((len(places), 0)))
