"""A forest of random trees (Breiman 2001): scikit-learn grows it, plain arrays carry it, so no pickle is needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from safetensors.numpy import load, save
from torch import Tensor

from inference.engine.candidate import Session
from inference.engine.crossing import crossed
from inference.engine.objectives.number import Number
from inference.engine.objectives.objective import Objective
from inference.engine.objectives.single_label import SingleLabel
from inference.tabular.columns import Cells, Columns
from inference.tabular.learner import Fitted
from inference.tabular.table import TableLesson

TREES, LEAST_IN_LEAF = 300, 3
SMALLEST = 0.005
"""Of a probability: a forest of so many trees knows no better."""
FILE = "forest.safetensors"
Arrays = dict[str, Any]
"""All trees' nodes one after the other: feature (-1: a leaf), threshold, left, right, value [nodes, width]; ``first``
[trees] is each tree's root."""


@dataclass(frozen=True)
class ForestModel:
    """Trees over the dense columns; log-probabilities of labels, or the mean number."""

    columns: Columns
    trees: Arrays
    labels: bool

    def of(self, cells: Sequence[Cells]) -> Tensor:
        """[rows, width]."""
        return self.grown(self.columns.dense(cells))

    def grown(self, dense: Tensor) -> Tensor:
        """[rows, width] of dense rows."""
        rows, trees = dense.numpy(), self.trees
        place = numpy.repeat(trees["first"][None], len(rows), axis=0)
        every = numpy.arange(len(rows))[:, None]
        while (inner := trees["feature"][place] >= 0).any():
            goes_left = rows[every, trees["feature"][place].clip(0)] <= trees["threshold"][place]
            place = numpy.where(inner, numpy.where(goes_left, trees["left"][place], trees["right"][place]), place)
        found = torch.from_numpy(trees["value"][place].mean(1)).float()
        return found.clamp(min=SMALLEST).log() if self.labels else found

    def files(self) -> dict[str, bytes]:
        """The arrays."""
        return {FILE: save(self.trees)}


@dataclass(frozen=True)
class Forest:
    """The learner."""

    name: str = "forest"
    title: str = "the forest"

    def suits(self, objective: Objective) -> bool:
        """One label of several, or a number."""
        return isinstance(objective, SingleLabel | Number)

    def fit(self, table: TableLesson, session: Session) -> Fitted:
        """All rows; judged by forests of the folds."""
        dense, labels = table.dense, isinstance(table.objective, SingleLabel)
        wanted, weights = (each.numpy() for each in (table.objective.learnable(table.targets), table.weights))
        uneven = bool((weights != 1).any())  # scikit-learn draws rows another way as soon as weights are given

        def grow(rows: Tensor, _: Tensor) -> ForestModel:
            session.reporter.check(session.keeper.step)
            at = rows.numpy()
            grown = _grower(labels, table.lesson.seed).fit(
                dense[rows].numpy(), wanted[at], weights[at] if uneven else None
            )
            return ForestModel(table.columns, _arrays(grown), labels)

        _, outputs = crossed(table.folds, table.objective.width, grow, lambda model, rows: model.grown(dense[rows]))
        every = torch.arange(len(dense))
        return Fitted(grow(every, every), outputs, {"trees": TREES})

    def reopen(self, columns: Columns, width: int, files: Mapping[str, bytes]) -> ForestModel:
        """From the arrays."""
        return ForestModel(columns, load(files[FILE]), width > 1)


def _grower(labels: bool, seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    shared = {"n_estimators": TREES, "min_samples_leaf": LEAST_IN_LEAF, "random_state": seed, "n_jobs": 1}
    if labels:
        return RandomForestClassifier(**shared)
    return RandomForestRegressor(**shared, max_features=1 / 3)


def _arrays(grown: Any) -> Arrays:
    trees = [each.tree_ for each in grown.estimators_]
    sizes = numpy.array([tree.node_count for tree in trees])
    first = (numpy.cumsum(sizes) - sizes).astype(numpy.int32)
    shift = numpy.repeat(first, sizes)
    value = numpy.concatenate([tree.value[:, 0, :] for tree in trees])
    feature = numpy.concatenate([tree.feature for tree in trees]).astype(numpy.int32)
    return {
        "first": first,
        "feature": numpy.where(feature >= 0, feature, -1).astype(numpy.int32),
        # As scikit-learn compares: fp32 features with fp64 thresholds.
        "threshold": numpy.concatenate([tree.threshold for tree in trees]),
        "left": (numpy.concatenate([tree.children_left for tree in trees]) + shift).astype(numpy.int32),
        "right": (numpy.concatenate([tree.children_right for tree in trees]) + shift).astype(numpy.int32),
        "value": value.astype(numpy.float32),
    }
