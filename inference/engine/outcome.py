"""What a rung gives: a servable model and its logits on validation; how two rungs are compared."""

from dataclasses import dataclass, field
from typing import Any

from tilth.contract.messages import Rung
from torch import Tensor

from inference.engine.evaluate import paired_gain
from inference.engine.probe import Head

LEAST_GAIN = 0.001
"""A gain under 0.1 points goes to the cheaper rung."""


@dataclass(frozen=True)
class Outcome:
    """A model as a rung left it; ``lora`` by peft's names, empty for the probe."""

    rung: Rung
    head: Head
    valid_logits: Tensor
    """[validation rows, classes], rows in the split's order."""
    lora: dict[str, Tensor] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Gain of the dearer rung over the cheaper on the same validation rows, with its 95 % interval."""

    gain: float
    low: float
    high: float

    @property
    def worth_it(self) -> bool:
        """Whether the dearer one is kept."""
        return self.gain >= LEAST_GAIN


def compare(dearer: Outcome, cheaper: Outcome, targets: Tensor) -> Comparison:
    """Paired bootstrap of correctness on the in-scope validation rows (target ≥ 0)."""
    known = targets >= 0
    new, old = (each.valid_logits[known].argmax(1) == targets[known] for each in (dearer, cheaper))
    return Comparison(*paired_gain(new, old))
