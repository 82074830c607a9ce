"""A leg of a search: a team's way to where its trials are judged next, and who goes it."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from inference.engine.batches import Batch
from inference.engine.search.ground import Packed
from inference.engine.search.team import Team
from inference.engine.search.trial import Trial


@dataclass(frozen=True)
class Stepped:
    """A step that so many trials took together: rows and tokens of its batch, the lowest of their finite losses."""

    trials: int
    rows: int
    tokens: int
    loss: float | None

    @classmethod
    def of(cls, trials: Sequence[Trial], batch: Batch, losses: Sequence[float]) -> "Stepped":
        """As a team tells of it."""
        lowest = min(filter(math.isfinite, losses), default=None)
        return cls(len(trials), len(batch.rows), int(batch.attention_mask.sum()), lowest)


Hear = Callable[[Sequence[Stepped]], None]
"""Told of steps, each once."""
Check = Callable[[], None]
"""Asked between steps; raises Stopped or BudgetReached."""


@dataclass(frozen=True)
class Leg:
    """A team and, by numbers, the steps at which those of its trials that are behind are judged next."""

    team: Team
    goals: dict[int, int]

    @classmethod
    def of(cls, team: Team, rung: dict[int, int]) -> "Leg | None":
        """On the way to a rung, its steps by numbers; None if all have been judged there."""
        behind = [each for each in team.trials if each.state == "running" and each.judged < rung[each.number]]
        goals = {each.number: min(at for at in each.points() if at > each.judged) for each in behind}
        return cls(team, goals) if goals else None

    def walk(self, hear: Hear, check: Check) -> dict[int, Tensor]:
        """To the end; by numbers the outputs [validation rows, width] of those that did not run away."""
        walking, began = [each for each in self.team.trials if each.number in self.goals], time.monotonic()

        def stepped(trials: Sequence[Trial], batch: Batch, losses: Sequence[float]) -> None:
            hear([Stepped.of(trials, batch, losses)])
            check()

        try:
            self.team.advance(self.goals, stepped)
            running = [each for each in walking if each.state == "running"]
            outputs = self.team.outputs(running, self.team.encoder.validation) if running else []
        finally:
            spent = int(1000 * (time.monotonic() - began))
            for each in walking:
                each.device_ms += spent // len(walking)
        judged = {each.number: found for each, found in zip(running, outputs, strict=True) if found.isfinite().all()}
        for each in running:
            if each.number not in judged:
                each.run_away()
        return judged


class Runner(Protocol):
    """Who goes the legs of a search."""

    def walk(self, legs: Sequence[Leg], hear: Hear, check: Check) -> Iterator[tuple[Leg, dict[int, Tensor]]]:
        """Each leg with its outputs, in the order in which they end.

        What ``check`` raises ends all of them where they are, their steps heard, and goes on up.
        """


class Here:
    """In this process, one leg after another."""

    def walk(self, legs: Sequence[Leg], hear: Hear, check: Check) -> Iterator[tuple[Leg, dict[int, Tensor]]]:
        """As they come."""
        for leg in legs:
            yield leg, leg.walk(hear, check)


Hire = Callable[[Packed], AbstractContextManager[Runner]]
"""Gives a search who goes its legs beside this process, until it has ended."""
