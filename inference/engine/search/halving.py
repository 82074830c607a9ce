"""Successive halving: which trials go on past a rung (ASHA: Li et al. 2020, algorithm 2)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

FACTOR = 3
"""Of a rung's trials one in so many goes on, with so many times the steps."""
RUNGS = 2
"""Before the whole run: at a ninth and at a third of its steps."""


def rung_steps(steps: int) -> list[int]:
    """Steps at the end of each rung, the whole run last."""
    return [-(-steps // FACTOR ** (RUNGS - rung)) for rung in range(RUNGS + 1)]


@dataclass
class Halving:
    """The scores that trials had at each rung so far."""

    scores: dict[int, list[float]] = field(default_factory=dict)

    def promoted(self, rung: int, scores: Sequence[float]) -> list[bool]:
        """Which of those that reach a rung together go on: the best of all that ever reached it, and at least one."""
        known = self.scores.setdefault(rung, [])
        known.extend(scores)
        room = max(1, len(known) // FACTOR)
        least = sorted(known, reverse=True)[room - 1]
        going = [score >= least for score in scores]
        return going if any(going) or not scores else [score == max(scores) for score in scores]
