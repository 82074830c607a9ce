"""The candidate after a search: its best trial learns once more from the start, now with two views of each row."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from tilth.contract.learning import Rung

from inference.engine.adapting.climb import Adapt, Adapted
from inference.engine.adapting.recipe import Recipe
from inference.engine.candidate import Lesson, Outcome, Session
from inference.engine.memory import need
from inference.engine.search.candidate import Search


@dataclass(frozen=True)
class BestTrial:
    """Of a search, whose trials saw each row once; ``rows_at_once`` of a batch go forward and back together."""

    search: Search
    rows_at_once: int
    name: str = "best_trial"
    title: str = "its best trial in two views"

    @property
    def refines(self) -> str:
        """The search."""
        return self.search.name

    @property
    def rung(self) -> Rung:
        """The search's."""
        return self.search.rung

    @property
    def _recipe(self) -> Recipe:
        return self.search.encoders[0].recipe

    def size(self) -> str:
        """Rows, tokens, outputs."""
        return self.search.size()

    def need(self, tests: int) -> int:
        """By the shapes, as if of the largest base and method."""
        return max(need(work).peak for work in self.search.works(self._recipe, tests, self.rows_at_once))

    def smaller(self) -> Self | None:
        """Half the rows at once; None at one."""
        return None if self.rows_at_once == 1 else replace(self, rows_at_once=(self.rows_at_once + 1) // 2)

    def passes(self) -> float:
        """Three for each row's view and epoch, one for each row of validation."""
        own = self.search.encoders[0]
        return self._recipe.epochs * (3.0 * self._recipe.views * len(own.train) + len(own.validation))

    def learn(self, session: Session) -> Outcome | None:
        """None if the search found no trial, or not one epoch was evaluated within the budget."""
        found = session.done.get(self.search.name)
        outcome = self._settled(found).learn(session) if found else None
        return outcome and replace(outcome, name=self.name)

    def again(self) -> float:
        """Three for each row's view and epoch."""
        return 3.0 * self._recipe.views * self._recipe.epochs * self.search.encoders[0].rows

    def relearned(self, session: Session, outcome: Outcome, lesson: Lesson) -> Adapted:
        """As many epochs as the best took, by the same schedule."""
        return self._settled(session.done[self.search.name]).relearned(session, outcome, lesson)

    def reopen(self, files: Mapping[str, bytes]) -> Adapted:
        """From the files of its model."""
        return self.search.reopen(files)

    def _settled(self, found: Outcome) -> Adapt:
        best = self.search.best(found)
        recipe = replace(best.recipe, consistency=self._recipe.consistency)
        return replace(best, recipe=recipe, rows_at_once=self.rows_at_once)
