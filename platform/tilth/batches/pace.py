"""How batches keep behind whoever waits for an answer; `make bench NAME=batches` shows what it costs and gains."""

CALL_ROWS = 32
"""Most rows of one call of the data plane."""
FIRST_ROWS = 8
CALL_S = 0.1
"""What a call should take: who waits for an answer waits for about AT_ONCE of them."""
AT_ONCE = 2
"""Organisations that are worked for at the same time, each with one call."""
SLICE_S = 2.0
"""After which another organisation's batch, or another of the same, has its turn."""
BACK_OFF_S = (0.5, 30.0)
"""The first and the longest rest of a batch that found the data plane away or no room in the budget."""


class Pace:
    """Rows of the next call, by how long the last one took: few on a slow or a busy data plane, many on a fast one."""

    def __init__(self) -> None:
        self.rows = FIRST_ROWS

    def took(self, rows: int, seconds: float) -> None:
        """A call of so many rows was answered; at most twice as many are next."""
        fitting = int(rows * CALL_S / max(seconds, 1e-6))
        self.rows = max(1, min(CALL_ROWS, 2 * self.rows, fitting))
