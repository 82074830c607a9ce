"""After learning: a temperature that makes probabilities honest, and a threshold for what is out of scope."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from inference.engine.evaluate import auroc

FALSE_ALARMS = 0.05
"""Share of in-scope validation rows that may be called out of scope."""

Score = Callable[[Tensor], Tensor]
SCORES: dict[str, Score] = {
    "probability": lambda logits: logits.softmax(1).max(1).values,
    "logit": lambda logits: logits.max(1).values,
    "energy": lambda logits: logits.logsumexp(1),
}
"""Scores [n] of logits [n, classes], higher is more in scope (Hendrycks 2017; energy: Liu et al. 2020)."""


@dataclass(frozen=True)
class ScopeRule:
    """A row whose ``score`` falls below ``threshold`` is out of scope."""

    score: str
    threshold: float


def temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature that minimises cross-entropy on validation (Guo et al. 2017), within 0.05 … 20."""
    log_t = torch.zeros((), dtype=torch.double, requires_grad=True)
    optimiser = torch.optim.LBFGS([log_t], max_iter=50, line_search_fn="strong_wolfe")
    logits = logits.detach().double()

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = functional.cross_entropy(logits / log_t.exp(), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return float(log_t.exp().clamp(0.05, 20).item())


def scope_rule(inside: Tensor, outside: Tensor) -> ScopeRule:
    """The score that separates best on validation, and its threshold at FALSE_ALARMS; logits [n, classes].

    Without out-of-scope rows the maximum probability is taken: there is nothing to choose by.
    """
    name = "probability"
    if len(outside):
        name = max(SCORES, key=lambda each: auroc(SCORES[each](inside), SCORES[each](outside)))
    threshold = torch.quantile(SCORES[name](inside).double(), FALSE_ALARMS).item()
    return ScopeRule(name, threshold)


def scope_report(inside: Tensor, outside: Tensor, rule: ScopeRule) -> dict[str, float]:
    """AUROC, recall at 5 % false alarms, and what the frozen threshold does, on rows not used to set it."""
    score = SCORES[rule.score]
    in_scores, out_scores = score(inside).double(), score(outside).double()
    at_five = torch.quantile(in_scores, FALSE_ALARMS)
    return {
        "auroc": auroc(in_scores, out_scores),
        "recall_at_5_false_alarms": (out_scores < at_five).double().mean().item(),
        "recall": (out_scores < rule.threshold).double().mean().item(),
        "false_alarms": (in_scores < rule.threshold).double().mean().item(),
        "rows": float(len(outside)),
    }
