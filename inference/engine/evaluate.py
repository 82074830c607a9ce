"""Scores with intervals: accuracy, macro-F1, calibration error, out-of-scope detection; paired comparison of models."""

import torch
from torch import Tensor
from torch.nn import functional

RESAMPLES = 2000
"""Bootstrap resamples (Efron 1979)."""


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


def interval(correct: Tensor, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of correct [n] (0 or 1)."""
    means = _resampled_means(correct.double(), seed)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return low, high


def paired_gain(new: Tensor, old: Tensor, seed: int = 0) -> tuple[float, float, float]:
    """(gain, low, high): mean of new - old correctness [n] on the same rows, and its 95 % paired bootstrap."""
    difference = new.double() - old.double()
    return (difference.mean().item(), *interval(difference, seed))


def _resampled_means(values: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    count = len(values)
    # Drawn in blocks of 100 resamples, so that memory stays flat for large test sets.
    draws = (torch.randint(count, (100, count), generator=generator) for _ in range(RESAMPLES // 100))
    return torch.cat([values[draw].mean(1) for draw in draws])


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
