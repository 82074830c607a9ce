"""What a job will take, told before it starts: device time by rows, as finished jobs took it; cost by its price."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from tilth.contract.learning import Rung
from tilth.contract.messages import TrainingOptions
from tilth.core.money import Price

DEFAULT_MS_PER_ROW = {Rung.BASELINE: 1.0, Rung.PROBE: 8.0, Rung.LORA: 80.0, Rung.FULL: 160.0}
"""Device-milliseconds for each row by highest rung, on two CPU cores; used until LEARNED_FROM jobs have finished."""
TRIAL_SHARE = 0.2
"""Of a whole run that a trial of a search takes: it sees each row once and may be stopped. The best makes one more."""
LEARNED_FROM = 5
SETUP_MS = 2_000
CAP_FACTOR = 6
CAP_MINIMUM_MS = 300_000
"""A job may use at most CAP_FACTOR times its estimate, and at least this is allowed."""


MIB = 1 << 20
ROW_BYTES = 2_048
"""The least that a trainer holds of a row: its text, tokens and vector (384 numbers of four bytes)."""
CLASS_BYTES = 12
"""Of a row and class: logits, their softmax and gradient, in the four fifths of the rows that train."""


def least_memory_mb(base_mb: int, rows: int, classes: int) -> int:
    """MiB below which no trainer can learn from so many rows, whatever its batches; the trainer's own preflight knows
    the lengths and is exact."""
    return base_mb + rows * (ROW_BYTES + CLASS_BYTES * classes) // MIB


def ms_per_row(finished: Sequence[tuple[int, int]], options: TrainingOptions) -> float:
    """Median over finished jobs' (device ms, rows); the default while there are too few."""
    rates = [max(0, spent - SETUP_MS) / rows for spent, rows in finished if rows]
    default = DEFAULT_MS_PER_ROW[options.top] * (1 + TRIAL_SHARE * (options.trials or 0))
    return median(rates) if len(rates) >= LEARNED_FROM else default


def estimate_ms(rows: int, rate: float) -> int:
    """Device time of a whole job."""
    return SETUP_MS + int(rows * rate)


def cap_ms(estimate: int) -> int:
    """Device time after which a job ends with its best: the hold covers this much."""
    return max(CAP_MINIMUM_MS, CAP_FACTOR * estimate)


def shown(estimate: int | None, cap: int | None, price: Price | None) -> dict[str, Any] | None:
    """As customers see it; None before the files are checked."""
    if estimate is None or cap is None or price is None:
        return None
    return {
        "seconds": estimate // 1000,
        "cost_micro_usd": price.ceil(estimate),
        "at_most_seconds": cap // 1000,
        "at_most_micro_usd": price.ceil(cap),
    }


def queue_position(own_ahead: int, others: Sequence[int]) -> int:
    """Place in the queue, from 1, when customers take turns: each other one goes at most as often as we do before."""
    return 1 + own_ahead + sum(min(waiting, own_ahead + 1) for waiting in others)
