"""Optimisers by name, each with what its learning rate is of AdamW's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tilth.contract.learning import Optimiser

WEIGHT_DECAY = 0.01
Groups = list[dict[str, Any]]


@dataclass(frozen=True)
class Kind:
    """How one is made, and its learning rate as a multiple of AdamW's for the same work."""

    made: Callable[[Groups], torch.optim.Optimizer]
    rate: float


OPTIMISERS: dict[Optimiser, Kind] = {
    Optimiser.ADAMW: Kind(lambda groups: torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY), 1.0),
    # The gradient is clipped to length one: a step of Adam's length needs a far greater rate.
    Optimiser.SGD: Kind(
        lambda groups: torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY / 100),
        100.0,
    ),
    # Its steps are relative to the size of what learns, which of an adapter begins at zero.
    Optimiser.ADAFACTOR: Kind(lambda groups: torch.optim.Adafactor(groups, weight_decay=WEIGHT_DECAY), 10.0),
}
