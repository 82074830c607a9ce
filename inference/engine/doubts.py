"""What cross-fitting tells of the rows themselves: labels that are probably wrong, and whether more rows would help."""

from typing import Any

import torch
from torch import Tensor

from inference.engine.candidate import Lesson
from inference.engine.objectives.single_label import SingleLabel

MOST_LISTED = 200
"""Suspects in a report, the surest first."""
WORTH_MORE = 0.005
"""Of the score, gained by the last doubling of the rows: then more rows are advised."""


def suspects(crossed: Tensor, lesson: Lesson) -> dict[str, Any] | None:
    """Training rows whose label is probably wrong; None for a target that is no label, or one of odds.

    Confident learning (Northcutt et al. 2021): another label is likelier than rows that bear it have it on average.
    ``crossed`` [training rows, classes] are outputs of models that have not seen their row.
    """
    objective = lesson.objective
    if not isinstance(objective, SingleLabel) or objective.selects != "accuracy":
        return None
    shares, targets = crossed.double().softmax(1), lesson.train_targets
    own = shares[torch.arange(len(targets)), targets]
    counts = torch.bincount(targets, minlength=objective.width).clamp(min=1)
    usual = torch.zeros(objective.width, dtype=torch.double).index_add_(0, targets, own) / counts
    surest, likely = shares.max(1)
    doubted = torch.nonzero((likely != targets) & (surest >= usual[likely])).flatten()
    order = doubted[(surest - own)[doubted].argsort(descending=True)][:MOST_LISTED]
    listed = [
        {
            "line": lesson.train[row].get("line"), "label": objective.labels[int(targets[row])],
            "likely": objective.labels[int(likely[row])], "probability": round(float(surest[row]), 4),
        }
        for row in order.tolist()
    ]  # fmt: skip
    return {"count": len(doubted), "rows": listed}


def advice(curve: list[list[float]]) -> str:
    """In a sentence, what the last doubling of the rows gained; ``curve`` is [rows, score] from few to all."""
    (few, before), (many, after) = curve[-2:]
    gained = f"From {few:,.0f} to {many:,.0f} rows the score on validation went from {before:.4f} to {after:.4f}"
    more = "more rows would probably help" if after - before >= WORTH_MORE else "more rows alike would hardly help"
    return f"{gained}; {more}."
