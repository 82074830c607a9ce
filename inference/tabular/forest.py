"""A forest of random trees (Breiman 2001): scikit-learn grows it, plain arrays carry it, so no pickle is needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from safetensors.numpy import load, save
from torch import Tensor

from inference.engine.candidate import Session
from inference.engine.crossing import parts
from inference.engine.objectives.number import Number
from inference.engine.objectives.objective import Objective
from inference.engine.objectives.single_label import SingleLabel
from inference.tabular.columns import Cells, Columns
from inference.tabular.learner import Fitted
from inference.tabular.table import TableLesson

TREES, LEAST_IN_LEAF = 300, 3
BLOCK = 20
"""Trees that grow between two questions whether to stop."""
AT_ONCE = 1024
"""Rows that go through the trees together."""
NODES = 0.4
"""Of a tree for each row at most; measured: 0.35 where nothing is to be learned, 0.2 on usual tables."""
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
        return torch.cat([self._of(part.numpy()) for part in torch.split(dense, AT_ONCE)])

    def _of(self, rows: Any) -> Tensor:
        trees = self.trees
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

    def held(self, rows: int, width: int) -> int:
        """Of a node 20 bytes and its values, twice while trees are joined, and three places while those are shifted."""
        return int(NODES * TREES * rows * (2 * (20 + 4 * width) + 3 * 4))

    def fit(self, table: TableLesson, session: Session) -> Fitted:
        """All rows; judged by forests of the folds."""
        dense, width, labels = table.dense, table.objective.width, isinstance(table.objective, SingleLabel)
        wanted, weights = (each.numpy() for each in (table.objective.learnable(table.targets), table.weights))
        uneven = bool((weights != 1).any())  # scikit-learn draws rows another way as soon as weights are given

        def grow(rows: Tensor) -> ForestModel:
            at, grower, trees = rows.numpy(), _grower(labels, table.lesson.seed), list[Arrays]()
            told = dense[rows].numpy(), wanted[at], weights[at] if uneven else None
            for count in (*range(BLOCK, TREES, BLOCK), TREES):
                session.reporter.check(session.keeper.step)
                grower.set_params(n_estimators=count).fit(*told)
                known = grower.classes_ if labels else slice(None)
                trees += [_tree(each.tree_, known, width) for each in grower.estimators_[len(trees) :]]
                grower.estimators_ = [None] * count  # it only counts them: theirs take three times what ours do
            return ForestModel(table.columns, _joined(trees), labels)

        outputs = torch.zeros(len(dense), width)
        for rows, held in parts(table.folds):
            outputs[held] = grow(rows).grown(dense[held])
        return Fitted(grow(torch.arange(len(dense))), outputs, {"trees": TREES})

    def reopen(self, columns: Columns, width: int, files: Mapping[str, bytes]) -> ForestModel:
        """From the arrays."""
        return ForestModel(columns, load(files[FILE]), width > 1)


def _grower(labels: bool, seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    shared = {"min_samples_leaf": LEAST_IN_LEAF, "random_state": seed, "n_jobs": 1, "warm_start": True}
    if labels:
        return RandomForestClassifier(**shared)
    return RandomForestRegressor(**shared, max_features=1 / 3)


def _tree(tree: Any, labels: Any, width: int) -> Arrays:
    """Of scikit-learn's; ``labels``: those of its values, since a fold may lack one, whose probability is 0."""
    value = numpy.zeros((tree.node_count, width), dtype=numpy.float32)
    value[:, labels] = tree.value[:, 0, :]
    return {
        "feature": tree.feature.clip(-1).astype(numpy.int32),
        # As scikit-learn compares: fp32 features with fp64 thresholds.
        "threshold": tree.threshold.copy(),
        "left": tree.children_left.astype(numpy.int32),
        "right": tree.children_right.astype(numpy.int32),
        "value": value,
    }


def _joined(trees: Sequence[Arrays]) -> Arrays:
    made = {name: numpy.concatenate([each[name] for each in trees]) for name in trees[0]}
    sizes = numpy.array([len(each["feature"]) for each in trees])
    first = (numpy.cumsum(sizes) - sizes).astype(numpy.int32)
    shift = numpy.repeat(first, sizes)
    return {**made, "first": first, "left": made["left"] + shift, "right": made["right"] + shift}
