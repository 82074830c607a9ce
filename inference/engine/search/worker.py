"""A worker of a search: goes a leg that came as plain data, on base models of its own, and gives it back as such."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Event
from typing import Any

from torch import Tensor

from inference.engine.search.ground import Ground
from inference.engine.search.leg import Leg, Stepped
from inference.engine.search.team import Team

State = tuple[dict[str, Any], dict[str, Tensor]]
"""Of a trial, as ``plain`` and ``tensors`` give it."""


@dataclass(frozen=True)
class Order:
    """A leg as it crosses to a worker."""

    number: int
    """No two orders of a search have the same."""
    trials: list[State]
    goals: dict[int, int]
    rows_at_once: int

    @classmethod
    def of(cls, number: int, leg: Leg) -> "Order":
        """From where its trials are."""
        trials = [(each.plain(), each.tensors()) for each in leg.team.trials]
        return cls(number, trials, leg.goals, leg.team.rows_at_once)


@dataclass(frozen=True)
class Walked:
    """What became of a leg; without outputs where it was stopped before its end."""

    trials: list[State]
    rows_at_once: int
    outputs: dict[int, Tensor]
    steps: list[Stepped]

    def take_over(self, leg: Leg) -> None:
        """The leg's trials are then where the worker's are."""
        leg.team.rows_at_once = self.rows_at_once
        for trial, (plain, tensors) in zip(leg.team.trials, self.trials, strict=True):
            trial.restore(tensors, plain)


class Halted(Exception):
    """A worker was told to stop."""


class Worker:
    """Goes one leg at a time; ``steps`` and ``stop`` are called from other threads meanwhile."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._stop = Event()
        self._number, self._steps = 0, list[Stepped]()

    def walk(self, order: Order) -> Walked:
        """To its end, or to the step at which it is told to stop."""
        self._steps = steps = list[Stepped]()
        self._number = order.number
        leg, outputs = Leg(self._team(order), order.goals), dict[int, Tensor]()
        with suppress(Halted):
            outputs = leg.walk(steps.extend, self._check)
        trials = [(each.plain(), each.tensors()) for each in leg.team.trials]
        return Walked(trials, leg.team.rows_at_once, outputs, steps)

    def steps(self, number: int, after: int) -> Sequence[Stepped]:
        """Those of an order beyond the first so many, as far as they are taken."""
        return self._steps[after:] if self._number == number else []

    def stop(self) -> None:
        """Between two steps, and for good."""
        self._stop.set()

    def _check(self) -> None:
        if self._stop.is_set():
            raise Halted

    def _team(self, order: Order) -> Team:
        trials = [self._ground.begun(plain["number"], plain["params"]) for plain, _ in order.trials]
        for trial, (plain, tensors) in zip(trials, order.trials, strict=True):
            trial.restore(tensors, plain)
        return Team(trials, order.rows_at_once)
