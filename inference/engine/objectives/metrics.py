"""Metrics of a single label by name: a face names the one that chooses, the report shows those that apply."""

from collections.abc import Callable

import torch
from torch import Tensor

from inference.engine.evaluate import accuracy, auroc, cross_entropy, expected_calibration_error, macro_f1

Metric = Callable[[Tensor, Tensor], float]
"""Of outputs [rows, classes] and class numbers [rows]."""


def _accuracy(outputs: Tensor, targets: Tensor) -> float:
    return accuracy(outputs.argmax(1), targets)


def _macro_f1(outputs: Tensor, targets: Tensor) -> float:
    return macro_f1(outputs.argmax(1), targets, outputs.shape[1])


def odds(outputs: Tensor) -> Tensor:
    """[rows]: log-odds of the second of two classes."""
    return outputs[:, 1] - outputs[:, 0]


def _auc(outputs: Tensor, targets: Tensor) -> float:
    """Area under the ROC curve; 0.5 where only one class is there."""
    positive = targets == 1
    if positive.all() or not positive.any():
        return 0.5
    return auroc(odds(outputs)[positive], odds(outputs)[~positive])


def _gini(outputs: Tensor, targets: Tensor) -> float:
    return 2 * _auc(outputs, targets) - 1


def _ks(outputs: Tensor, targets: Tensor) -> float:
    """Kolmogorov-Smirnov: the greatest distance between both classes' distributions of the score."""
    order = odds(outputs).argsort(descending=True)
    hit, score = (targets[order] == 1).double(), odds(outputs)[order]
    if not 0 < hit.sum() < len(hit):
        return 0.0
    apart = hit.cumsum(0) / hit.sum() - (1 - hit).cumsum(0) / (1 - hit).sum()
    last = torch.cat([score[1:] != score[:-1], torch.ones(1, dtype=torch.bool)])
    return float(apart[last].abs().max().item())


def _brier(outputs: Tensor, targets: Tensor) -> float:
    """Mean squared error of the second class's probability (Brier 1950)."""
    return float((outputs.double().softmax(1)[:, 1] - (targets == 1).double()).square().mean().item())


def resampled_binary(name: str, outputs: Tensor, targets: Tensor, draws: Tensor) -> Tensor:
    """[resamples]: auc, gini or ks of each draw [resamples, rows], by counts of both classes at each level of score."""
    levels = torch.unique(odds(outputs), return_inverse=True)[1]
    shape = (len(draws), int(levels.max()) + 1)
    drawn = levels[draws]
    bad = torch.zeros(shape, dtype=torch.double).scatter_add_(1, drawn, (targets[draws] == 1).double())
    good = torch.zeros(shape, dtype=torch.double).scatter_add_(1, drawn, (targets[draws] != 1).double())
    all_bad, all_good = bad.sum(1).clamp(min=1), good.sum(1).clamp(min=1)
    if name == "ks":
        return (bad.cumsum(1) / all_bad[:, None] - good.cumsum(1) / all_good[:, None]).abs().max(1).values
    won = (bad * (good.cumsum(1) - good / 2)).sum(1) / (all_bad * all_good)
    found = torch.where((bad.sum(1) > 0) & (good.sum(1) > 0), won, 0.5)
    return found if name == "auc" else 2 * found - 1


SINGLE: dict[str, Metric] = {
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
    "loss": cross_entropy,
    "ece": expected_calibration_error,
}
"""Of any number of classes."""
BINARY: dict[str, Metric] = {"auc": _auc, "gini": _gini, "ks": _ks, "brier": _brier}
"""Of two; the second in sorted order is the one that is scored."""
CHOOSING = ("accuracy", "macro_f1", "auc", "gini", "ks")
"""Those that may choose: higher is better, whatever the calibration."""
