"""A learner of a table whose parameters are searched: its usual ones first, then what Optuna asks for."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self, runtime_checkable

from optuna.distributions import BaseDistribution

from inference.engine.candidate import Session
from inference.engine.errors import BudgetReached
from inference.engine.evaluate import interval
from inference.engine.objectives.objective import Objective
from inference.engine.search.sampler import Params, Sampler, Told
from inference.tabular.columns import Columns
from inference.tabular.learner import Fitted, Learner, TableModel
from inference.tabular.table import TableLesson


@runtime_checkable
class Tunable(Learner, Protocol):
    """A learner whose main parameters may vary."""

    @property
    def varied(self) -> Mapping[str, BaseDistribution]:
        """How."""

    @property
    def usual(self) -> tuple[Params, ...]:
        """Those with which it learns without a search."""

    def having(self, params: Params) -> Self:
        """With these alone."""


@dataclass(frozen=True)
class Tuned:
    """The learner; of so many trials the one whose cross-fitted outputs score best is its model."""

    learner: Tunable
    trials: int

    @property
    def name(self) -> str:
        """The learner's."""
        return self.learner.name

    @property
    def title(self) -> str:
        """The learner's."""
        return self.learner.title

    def suits(self, objective: Objective) -> bool:
        """As the learner does."""
        return self.learner.suits(objective)

    def fit(self, table: TableLesson, session: Session) -> Fitted:
        """A budget that ends leaves the best so far, if there is one."""
        tuning = Tuning(self.learner, table, session)
        sampler = Sampler.of(self.learner.varied, self.learner.usual)
        try:
            while len(tuning.ended) < self.trials:
                count = 1 if tuning.ended else len(self.learner.usual)
                for params in sampler.ask(tuning.ended, count, table.lesson.seed):
                    tuning.try_(params)
        except BudgetReached:
            if tuning.best is None:
                raise
        return tuning.found()

    def reopen(self, columns: Columns, width: int, files: Mapping[str, bytes]) -> TableModel:
        """By the learner."""
        return self.learner.reopen(columns, width, files)


@dataclass
class Tuning:
    """Trials of a learner on one table, one after another."""

    learner: Tunable
    table: TableLesson
    session: Session
    best: Fitted | None = None
    ended: list[Told] = field(default_factory=list)
    board: list[dict[str, Any]] = field(default_factory=list)

    def try_(self, params: Params) -> None:
        """Learns with these, and tells how it went."""
        number, began, objective = len(self.ended), time.monotonic(), self.table.objective
        fitted = self.learner.having(params).fit(self.table, self.session)
        outputs, targets = fitted.crossed, self.table.targets
        score = objective.score(outputs, targets)
        ends = interval(lambda draws: objective.resampled(outputs, targets, draws), len(targets))
        if self.best is None or score > max(told.score for told in self.ended):
            self.best = fitted
        self.ended.append(Told(params, score, whole=True))
        self.board.append({
            "trial": number, "state": "ended", "params": params, "score": round(score, 6),
            "interval": [round(end, 6) for end in ends], "device_ms": int(1000 * (time.monotonic() - began)),
        })  # fmt: skip
        name = f"{self.learner.name} trial {number}"
        told = f"{name.capitalize()}: cross-fitted {objective.selects}={score:.4f}"
        self.session.reporter.scores(told, rung=name, step=0, **{f"valid_{objective.selects}": score})

    def found(self) -> Fitted:
        """The best, with all trials on its board; raises AssertionError if there was none."""
        if self.best is None:
            raise AssertionError(f"no trial of {self.learner.title} has ended")
        board = sorted(self.board, key=lambda line: -float(line["score"]))
        return replace(self.best, facts={**self.best.facts, "trials": board})


def tuned(learner: Learner, trials: int | None) -> Learner:
    """With a search in it, where one is asked for and the learner has what may vary."""
    return Tuned(learner, trials) if trials and isinstance(learner, Tunable) else learner
