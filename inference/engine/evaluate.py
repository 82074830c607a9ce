"""Scores with intervals: accuracy, macro-F1, calibration error, out-of-scope detection; the bootstrap."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

RESAMPLES = 2000
"""Bootstrap resamples (Efron 1979)."""
BLOCK = 4_000_000


def accuracy(predicted: Tensor, targets: Tensor) -> float:
    """Share of rows [n] whose class is right."""
    return (predicted == targets).double().mean().item()


def macro_f1(predicted: Tensor, targets: Tensor, classes: int) -> float:
    """Mean F1 over the classes that occur in the targets or predictions [n]."""
    counted = torch.bincount(targets * classes + predicted, minlength=classes * classes).view(classes, classes)
    hit, said, there = counted.diagonal().double(), counted.sum(0).double(), counted.sum(1).double()
    present = (said + there) > 0
    return float((2 * hit[present] / (said + there)[present]).mean().item())


def cross_entropy(logits: Tensor, targets: Tensor) -> float:
    """Mean negative log-likelihood in nats; logits [n, classes]."""
    return functional.cross_entropy(logits.double(), targets).item()


def expected_calibration_error(logits: Tensor, targets: Tensor, bins: int = 15) -> float:
    """ECE with equal-width bins of confidence (Guo et al. 2017, section 2)."""
    confidence, predicted = logits.double().softmax(1).max(1)
    place = (confidence * bins).long().clamp(max=bins - 1)
    gap = torch.zeros(bins, dtype=torch.double)
    gap.index_add_(0, place, (predicted == targets).double() - confidence)
    return float((gap.abs().sum() / len(targets)).item())


Statistic = Callable[[Tensor], Tensor]
"""[resamples] of draws [resamples, rows] of row numbers."""


def interval(statistic: Statistic, rows: int, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a statistic of so many rows."""
    found = torch.cat([statistic(draws) for draws in _draws(rows, seed)]).double()
    low, high = torch.quantile(found, torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return low, high


def mean_of(values: Tensor) -> Statistic:
    """The mean of values [rows], e.g. of what is 1 where a row is right."""
    return lambda draws: values.double()[draws].mean(1)


def _draws(rows: int, seed: int) -> Iterator[Tensor]:
    """Row numbers in blocks [resamples, rows] of at most BLOCK numbers, so that memory stays flat for large sets."""
    generator = torch.Generator().manual_seed(seed)
    each = max(1, min(100, BLOCK // max(1, rows)))
    for done in range(0, RESAMPLES, each):
        yield torch.randint(rows, (min(each, RESAMPLES - done), rows), generator=generator)


def auroc(inside: Tensor, outside: Tensor) -> float:
    """P(score of an in-scope row > score of an out-of-scope row), ties half (Mann-Whitney U)."""
    both = torch.cat([inside, outside]).double()
    _, inverse, counts = torch.unique(both, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[inverse]
    count_in, count_out = len(inside), len(outside)
    u = ranks[:count_in].sum() - count_in * (count_in + 1) / 2
    return float((u / (count_in * count_out)).item())


def error_upper_bound(errors: int, count: int) -> float:
    """Upper end of the 95 % Wilson interval of an error rate (Wilson 1927)."""
    if count == 0:
        return 1.0
    z, rate = 1.96, errors / count
    centre = rate + z * z / (2 * count)
    spread = z * (rate * (1 - rate) / count + z * z / (4 * count * count)) ** 0.5
    return float(min(1.0, (centre + spread) / (1 + z * z / count)))
