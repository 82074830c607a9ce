"""Gradient-boosted trees (LightGBM, Ke et al. 2017): one booster for each fold, stopped early; their mean answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import lightgbm
import numpy
import torch
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from torch import Tensor

from inference.engine.candidate import Session
from inference.engine.crossing import parts
from inference.engine.objectives.number import Number
from inference.engine.objectives.objective import Objective
from inference.engine.objectives.single_label import SingleLabel
from inference.engine.search.sampler import Params
from inference.tabular.columns import Cells, Columns
from inference.tabular.learner import Fitted
from inference.tabular.table import TableLesson

MOST_ROUNDS, PATIENCE = 1000, 30
SHARED: dict[str, Any] = {
    "verbosity": -1, "deterministic": True, "force_row_wise": True, "feature_pre_filter": False, "bagging_freq": 1,
    "learning_rate": 0.05, "cat_smooth": 20.0, "min_data_per_group": 10, "max_bin": 255,
}  # fmt: skip
SHAPES: tuple[Params, ...] = (
    {"num_leaves": 4, "min_data_in_leaf": 20, "feature_fraction": 0.4, "bagging_fraction": 0.7, "lambda_l2": 5.0},
    {"num_leaves": 8, "min_data_in_leaf": 10, "feature_fraction": 0.3, "bagging_fraction": 0.7, "lambda_l2": 10.0},
    {"num_leaves": 31, "min_data_in_leaf": 20, "feature_fraction": 0.8, "bagging_fraction": 0.9, "lambda_l2": 1.0},
)
"""Tried in turn; chosen by cross-fitting."""


@dataclass(frozen=True)
class BoostedModel:
    """The mean of the members' raw scores."""

    columns: Columns
    boosters: list[lightgbm.Booster]
    width: int

    def of(self, cells: Sequence[Cells]) -> Tensor:
        """[rows, width]."""
        table = self.columns.table(cells)
        return torch.stack([self.raw(booster, table) for booster in self.boosters]).mean(0)

    def raw(self, booster: lightgbm.Booster, table: NDArray[numpy.float64]) -> Tensor:
        """[rows, width] of one member: of two labels the log-odds of the second beside zero."""
        found = torch.from_numpy(numpy.asarray(booster.predict(table, raw_score=True)).reshape(len(table), -1)).float()
        return torch.cat([torch.zeros_like(found), found], dim=1) if self.width == 2 else found

    def files(self) -> dict[str, bytes]:
        """LightGBM's own text."""
        return {f"booster.{at}.txt": booster.model_to_string().encode() for at, booster in enumerate(self.boosters)}


@dataclass(frozen=True)
class Boosted:
    """The learner."""

    name: str = "boosted"
    title: str = "boosted trees"
    usual: tuple[Params, ...] = SHAPES

    @property
    def varied(self) -> Mapping[str, BaseDistribution]:
        """The trees' size, how much of the table each sees, and what draws their leaves to zero."""
        return {
            "num_leaves": IntDistribution(3, 64, log=True), "min_data_in_leaf": IntDistribution(5, 50, log=True),
            "feature_fraction": FloatDistribution(0.2, 1.0), "bagging_fraction": FloatDistribution(0.5, 1.0),
            "lambda_l2": FloatDistribution(0.1, 100.0, log=True),
        }  # fmt: skip

    def having(self, params: Params) -> "Boosted":
        """Trees of one shape."""
        return replace(self, usual=(params,))

    def suits(self, objective: Objective) -> bool:
        """One label of several, or a number."""
        return isinstance(objective, SingleLabel | Number)

    def fit(self, table: TableLesson, session: Session) -> Fitted:
        """The shape that scores best when cross-fitted; its members are the model."""
        best: tuple[float, BoostedModel, Tensor, dict[str, Any]] | None = None
        for shape in self.usual:
            session.reporter.check(session.keeper.step)
            model = BoostedModel(table.columns, _members(table, shape, session), table.objective.width)
            outputs = _crossed(table, model)
            score = table.objective.score(outputs, table.targets)
            if best is None or score > best[0]:
                best = (score, replace(model, boosters=_of_every_label(table, model.boosters)), outputs, shape)
        if best is None:
            raise AssertionError("there is a shape")
        return Fitted(best[1], best[2], {**best[3], "rounds": best[1].boosters[0].current_iteration()})

    def reopen(self, columns: Columns, width: int, files: Mapping[str, bytes]) -> BoostedModel:
        """From LightGBM's text."""
        texts = [files[name].decode() for name in sorted(files) if name.startswith("booster.")]
        try:
            return BoostedModel(columns, [lightgbm.Booster(model_str=text) for text in texts], width)
        except lightgbm.basic.LightGBMError as cause:
            raise ValueError(f"no booster's text: {cause}") from cause


def _members(table: TableLesson, shape: Mapping[str, Any], session: Session) -> list[lightgbm.Booster]:
    """One booster for each fold, all of the number of rounds that is best for the mean of all."""
    first = len(table.columns.measured)
    told = lightgbm.Dataset(
        table.table, table.objective.learnable(table.targets).numpy(), weight=table.weights.numpy(),
        categorical_feature=list(range(first, first + len(table.columns.chosen))), params={"verbosity": -1},
    )  # fmt: skip
    params = {**SHARED, **shape, **_loss(table.objective), "seed": table.lesson.seed}
    found = lightgbm.cv(
        {**params, "num_threads": torch.get_num_threads()}, told, MOST_ROUNDS,
        folds=[(rows.numpy(), held.numpy()) for rows, held in parts(table.folds)],
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False), _checks(session)], return_cvbooster=True,
    )  # fmt: skip
    all_of_them: Any = found["cvbooster"]
    rounds = all_of_them.best_iteration
    # Through text: without the rounds after the best one, and without the training rows.
    return [lightgbm.Booster(model_str=each.model_to_string(num_iteration=rounds)) for each in all_of_them.boosters]


def _checks(session: Session) -> Callable[[Any], None]:
    """After each round."""
    return lambda _: session.reporter.check(session.keeper.step)


def _crossed(table: TableLesson, model: BoostedModel) -> Tensor:
    found = torch.zeros(len(table.rows), model.width)
    for booster, (_, held) in zip(model.boosters, parts(table.folds), strict=True):
        found[held] = model.raw(booster, table.table[held.numpy()])
    return found


def _of_every_label(table: TableLesson, boosters: list[lightgbm.Booster]) -> list[lightgbm.Booster]:
    """Without those of folds that had none of a label to learn from: they rule it out, as no temperature undoes."""
    if not isinstance(table.objective, SingleLabel):
        return boosters
    every = len(torch.unique(table.targets))
    learned = (torch.unique(table.targets[rows]) for rows, _ in parts(table.folds))
    return [
        each for each, found in zip(boosters, learned, strict=True) if len(torch.unique(found)) == every
    ] or boosters


def _loss(objective: Objective) -> dict[str, Any]:
    match objective:
        case SingleLabel(width=2):
            return {"objective": "binary"}
        case SingleLabel():
            return {"objective": "multiclass", "num_class": objective.width}
    return {"objective": "huber", "metric": "l2"}
