"""Kills parts of the product under load by a seeded schedule, and looks after each run whether everything is right."""

import random
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median

import psycopg

from tests.campaign import sums
from tests.campaign.customers import Customers
from tests.campaign.kills import KINDS
from tests.product import Product

RECOVERED_S = 180.0
SIGNS = ("answer", "read", "upload", "learn")
"""What works again after a kill: predictions, reads, uploads, trainers' events."""
RARE = {"ray head": 0.5, "all at once": 0.5, "supervisor": 0.5}
"""Weights of the kills whose recovery takes long; 1 where nothing is said."""
PAUSES_S = (0.0, 6.0)
"""Between two kills of one run."""


@dataclass(frozen=True)
class Strike:
    """One kill of a schedule."""

    after_s: float
    kind: str


def schedule(seed: int, kinds: Sequence[str] = tuple(KINDS)) -> list[Strike]:
    """One to three kills; the same for the same seed."""
    dice = random.Random(seed)
    weights = [RARE.get(kind, 1.0) for kind in kinds]
    chosen = dice.choices(kinds, weights, k=dice.choices((1, 2, 3), (6, 3, 1))[0])
    return [Strike(round(dice.uniform(*PAUSES_S), 2), kind) for kind in chosen]


@dataclass
class Record:
    """What a campaign has seen so far."""

    runs: int = 0
    kills: int = 0
    recoveries: dict[str, dict[str, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    """Kind of the only kill of a run → sign → seconds until it was seen again."""

    def lines(self) -> list[dict[str, str]]:
        """A row for each kind: how often, and after how long each thing worked again (median, worst)."""
        return [
            {"killed": kind, "alone": str(len(by["answer"]))}
            | {f"{sign} s": f"{median(by[sign]):.1f}, {max(by[sign]):.1f}" for sign in SIGNS}
            for kind, by in sorted(self.recoveries.items())
        ]


class Campaign:
    """One product, customers at work on it, and runs of kills."""

    def __init__(self, product: Product, customers: int = 2) -> None:
        self._product = product
        self.customers = Customers(product, customers)
        self.record = Record()

    def run(self, strikes: Sequence[Strike]) -> list[str]:
        """The faults found after these kills, once everything works again and everybody has rested."""
        self.customers.work()
        for strike in strikes:
            time.sleep(strike.after_s)
            self.record.kills += KINDS[strike.kind](self._product)
        faults = self._recover(strikes)
        self.customers.rest()
        self.record.runs += 1
        return faults + sums.faults(self._product, self.customers.book)

    def _recover(self, strikes: Sequence[Strike]) -> list[str]:
        """Waits until each thing that was asked for after the last kill has worked."""
        since, moment = time.monotonic(), time.time()
        seen: dict[str, float] = {}
        while len(seen) < len(SIGNS):
            if time.monotonic() > since + RECOVERED_S:
                return [f"no {sign} within {RECOVERED_S:.0f} s" for sign in SIGNS if sign not in seen]
            if self._learns(moment):
                seen.setdefault("learn", time.monotonic() - since)
            for sign in SIGNS[:-1]:
                if self.customers.book.signs.get(sign, 0.0) > since:
                    seen.setdefault(sign, time.monotonic() - since)
            time.sleep(0.1)
        if len(strikes) == 1:
            for sign, seconds in seen.items():
                self.record.recoveries[strikes[0].kind][sign].append(seconds)
        return []

    def _learns(self, since: float) -> bool:
        """Whether a trainer's event of after that time (epoch seconds) is stored."""
        with suppress(psycopg.OperationalError), psycopg.connect(self._product.sums_url(), connect_timeout=2) as db:
            query = (
                "SELECT FROM training_event WHERE attempt > 0 AND kind = 'metrics' AND at > to_timestamp(%s) LIMIT 1"
            )
            return db.execute(query, [since]).fetchone() is not None
        return False
