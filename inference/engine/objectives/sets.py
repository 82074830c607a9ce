"""Metrics of sets of labels by name, their bootstrap, the temperature and the thresholds that validation fixes."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Metric = Callable[[Tensor, Tensor], float]
"""Of log-odds [rows, labels] and targets [rows, labels] of 1 or 0; a label is answered from even odds on."""

FEWEST = 10
"""Rows with a label, and without it, from which on it has a threshold of its own."""
TINY = 1e-9


def micro_f1(outputs: Tensor, targets: Tensor) -> float:
    """F1 over all pairs of a row and a label; one where nothing is there and nothing is answered."""
    hit, said, there = _pairs(outputs, targets)
    return _f1(hit.sum(), said.sum(), there.sum()).item()


def macro_f1(outputs: Tensor, targets: Tensor) -> float:
    """Mean F1 of the labels that are there or answered."""
    hit, said, there = (each.sum(0) for each in _pairs(outputs, targets))
    return _mean(_f1(hit, said, there), said + there > 0).item()


def subset_accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Share of rows whose whole set is right."""
    return _whole(outputs, targets).mean().item()


def lrap(outputs: Tensor, targets: Tensor) -> float:
    """Label ranking average precision (Tsoumakas et al. 2010): how high a row's labels rank; one of none."""
    return _ranked(outputs, targets).mean().item()


def mean_average_precision(outputs: Tensor, targets: Tensor) -> float:
    """Mean over the labels that are there of the average precision; equal outputs count as one step."""
    there = targets.sum(0) > 0
    found = [_average_precision(outputs[:, at], targets[:, at]) for at in torch.nonzero(there).flatten().tolist()]
    return sum(found) / len(found) if found else 0.0


def loss(outputs: Tensor, targets: Tensor) -> float:
    """Mean binary cross-entropy of the pairs, in nats."""
    return functional.binary_cross_entropy_with_logits(outputs.double(), targets.double()).item()


SETS: dict[str, Metric] = {
    "micro_f1": micro_f1,
    "macro_f1": macro_f1,
    "subset_accuracy": subset_accuracy,
    "lrap": lrap,
    "mean_average_precision": mean_average_precision,
    "loss": loss,
}
CHOOSING = ("micro_f1", "macro_f1", "subset_accuracy", "lrap")
"""Those that may choose: higher is better, and a resample is a matter of counts."""


def resampled(name: str, outputs: Tensor, targets: Tensor, draws: Tensor) -> Tensor:
    """[resamples]: a metric of CHOOSING of each draw [resamples, rows]."""
    match name:
        case "subset_accuracy":
            return _whole(outputs, targets)[draws].mean(1)
        case "lrap":
            return _ranked(outputs, targets)[draws].mean(1)
        case "micro_f1":
            hit, said, there = (each.sum(1)[draws].sum(1) for each in _pairs(outputs, targets))
            return _f1(hit, said, there)
    often = torch.zeros(len(draws), len(targets), dtype=torch.double)
    often.scatter_add_(1, draws, torch.ones_like(draws, dtype=torch.double))
    hit, said, there = (often @ each for each in _pairs(outputs, targets))
    return _mean(_f1(hit, said, there), said + there > 0)


def heat_of(outputs: Tensor, targets: Tensor) -> float:
    """The temperature that minimises binary cross-entropy (Guo et al. 2017), within 0.05 … 20."""
    if not len(targets):
        return 1.0
    log_t = torch.zeros((), dtype=torch.double, requires_grad=True)
    optimiser = torch.optim.LBFGS([log_t], max_iter=50, line_search_fn="strong_wolfe")
    fixed = outputs.detach()

    def closure() -> Tensor:
        optimiser.zero_grad()
        missed = functional.binary_cross_entropy_with_logits(fixed / log_t.clamp(-3, 3).exp(), targets)
        missed.backward()  # type: ignore[no-untyped-call]
        return missed

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return float(log_t.detach().exp().clamp(0.05, 20).item())


def thresholds(shares: Tensor, targets: Tensor) -> Tensor:
    """[labels]: the probability from which a label is answered.

    The one of the highest F1 of the label, where it has FEWEST rows and as many lack it; else of all pairs together.
    """
    shared = _best_cut(shares.flatten(), targets.flatten()) if targets.any() else 0.5
    made = torch.full((targets.shape[1],), shared, dtype=torch.double)
    have = targets.sum(0)
    for at in torch.nonzero((have >= FEWEST) & (len(targets) - have >= FEWEST)).flatten().tolist():
        made[at] = _best_cut(shares[:, at], targets[:, at])
    return made


def odds_between(scaled: Tensor, cuts: Tensor) -> Tensor:
    """Log-odds [rows, labels] moved so that a threshold is at even odds."""
    return scaled - torch.logit(cuts.clamp(TINY, 1 - TINY))


def _best_cut(shares: Tensor, targets: Tensor) -> float:
    """Half way between the last probability that is answered at the highest F1 and the next."""
    found, order = shares.sort(descending=True)
    hit = targets[order].double().cumsum(0)
    f1 = 2 * hit / (torch.arange(1, len(found) + 1) + hit[-1])
    last = torch.cat([found[1:] != found[:-1], torch.ones(1, dtype=torch.bool)])
    best = int(torch.where(last, f1, -1.0).argmax())
    below = float(found[best + 1]) if best + 1 < len(found) else 0.0
    return (float(found[best]) + below) / 2


def _pairs(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(hit, answered, there) [rows, labels], as numbers."""
    said, there = outputs >= 0, targets == 1
    return (said & there).double(), said.double(), there.double()


def _f1(hit: Tensor, said: Tensor, there: Tensor) -> Tensor:
    return torch.where(said + there > 0, 2 * hit / (said + there).clamp(min=1), 1.0)


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """Over the last dimension, of those that count; one if none does."""
    many = counted.sum(-1)
    return torch.where(many > 0, (values * counted).sum(-1) / many.clamp(min=1), 1.0)


def _whole(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs >= 0) == (targets == 1)).all(1).double()


def _ranked(outputs: Tensor, targets: Tensor) -> Tensor:
    """[rows]: over a row's labels the mean share of its labels among those that rank as high or higher."""
    made = torch.ones(len(targets), dtype=torch.double)
    there = targets == 1
    for row in torch.nonzero(there.any(1)).flatten().tolist():
        found, mine = outputs[row], outputs[row][there[row]]
        above = (found[None] >= mine[:, None]).sum(1)
        mine_above = (mine[None] >= mine[:, None]).sum(1)
        made[row] = (mine_above.double() / above).mean()
    return made


def _average_precision(outputs: Tensor, targets: Tensor) -> float:
    found, order = outputs.sort(descending=True)
    hit = targets[order].double().cumsum(0)
    last = torch.cat([found[1:] != found[:-1], torch.ones(1, dtype=torch.bool)])
    hits, counts = hit[last], torch.arange(1, len(found) + 1)[last]
    gained = torch.diff(hits, prepend=torch.zeros(1, dtype=torch.double))
    return float((gained * hits / counts).sum() / hit[-1])
