"""How batches keep behind whoever waits for an answer; `make bench NAME=batches` shows what it costs and gains."""

CALL_ROWS = 32
"""Rows of one call of the data plane."""
AT_ONCE = 2
"""Organisations that are worked for at the same time, each with one call."""
SLICE_S = 2.0
"""After which another organisation's batch, or another of the same, has its turn."""
BACK_OFF_S = (0.5, 30.0)
"""The first and the longest rest of a batch that found the data plane away or no room in the budget."""
