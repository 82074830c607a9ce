"""Workers beside the search's own process: each goes a leg at a time; a lost one's leg is gone again by another."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from inference.engine.errors import BudgetReached, Stopped
from inference.engine.search.leg import Check, Hear, Leg, Stepped
from inference.engine.search.worker import Order, Walked

log = logging.getLogger(__name__)

TICK_S = 0.2
"""Seconds between two questions whether to go on."""
PATIENCE_S = 4.0
"""Until workers that were told to stop have said where they are; a leg of which nothing is heard is where it began."""


class Hand(Protocol):
    """A worker as it is called from here."""

    def walk(self, order: Order) -> "Future[Walked]":
        """``Worker.walk``."""

    def steps(self, number: int, after: int) -> "Future[Sequence[Stepped]]":
        """``Worker.steps``."""

    def stop(self) -> None:
        """``Worker.stop``; a lost one hears nothing."""


@dataclass(eq=False)
class Errand:
    """A leg that a worker is on."""

    hand: Hand
    leg: Leg
    order: int
    walked: "Future[Walked]"
    heard: int = 0
    """Steps of it that were told."""
    asked: "Future[Sequence[Stepped]] | None" = None

    def news(self) -> Sequence[Stepped]:
        """Steps since the last time, as far as the worker has said; never waits."""
        asked = self.asked
        if asked is not None and not asked.done():
            return []
        found = asked.result() if asked is not None and asked.exception() is None else []
        self.heard += len(found)
        self.asked = self.hand.steps(self.order, self.heard)
        return found

    def ended(self) -> tuple[Sequence[Stepped], dict[int, Tensor]]:
        """(Steps that were not told yet, outputs), its trials being where the worker left them."""
        walked = self.walked.result()
        walked.take_over(self.leg)
        return walked.steps[self.heard :], walked.outputs


@dataclass
class Crew:
    """A Runner; ``lost`` is what a call raises whose worker has died. Without workers the legs are gone here."""

    hands: list[Hand]
    lost: type[Exception]
    _errands: list[Errand] = field(default_factory=list)
    _orders: int = 0

    def walk(self, legs: Sequence[Leg], hear: Hear, check: Check) -> Iterator[tuple[Leg, dict[int, Tensor]]]:
        """As they end."""
        waiting = list(legs)
        try:
            while waiting or self._errands:
                self._send(waiting)
                if not self._errands:
                    leg = waiting.pop(0)
                    yield leg, leg.walk(hear, check)
                for errand in self._finished():
                    if isinstance(errand.walked.exception(), self.lost):
                        self._replace(errand, waiting)
                        continue
                    steps, outputs = errand.ended()
                    hear(steps)
                    yield errand.leg, outputs
                for errand in self._errands:
                    hear(errand.news())
                check()
        except (Stopped, BudgetReached):
            self._halt(hear)
            raise

    def _send(self, waiting: list[Leg]) -> None:
        """A leg to each worker that has none."""
        busy = [errand.hand for errand in self._errands]
        for hand in [each for each in self.hands if each not in busy][: len(waiting)]:
            leg, self._orders = waiting.pop(0), self._orders + 1
            order = Order.of(self._orders, leg)
            self._errands.append(Errand(hand, leg, order.number, hand.walk(order)))

    def _finished(self) -> list[Errand]:
        """Taken off the list; waits for a tick if there is none."""
        wait([errand.walked for errand in self._errands], timeout=TICK_S, return_when=FIRST_COMPLETED)
        done = [errand for errand in self._errands if errand.walked.done()]
        self._errands = [errand for errand in self._errands if errand not in done]
        return done

    def _replace(self, errand: Errand, waiting: list[Leg]) -> None:
        """Its leg goes to another from where it began; the work that is done twice is told twice."""
        log.warning("a worker of the search is lost: %s", errand.walked.exception())
        self.hands.remove(errand.hand)
        waiting.insert(0, errand.leg)

    def _halt(self, hear: Hear) -> None:
        for errand in self._errands:
            errand.hand.stop()
        wait([errand.walked for errand in self._errands], timeout=PATIENCE_S)
        for errand in self._errands:
            if errand.walked.done() and errand.walked.exception() is None:
                hear(errand.ended()[0])
        self._errands = []
