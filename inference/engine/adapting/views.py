"""Two views of each row while something learns: by lot each lacks some features, and both shall answer alike.

R-Drop (Liang et al. 2021), but a feature is left out of all tokens of a row at once (cutoff: Shen et al. 2020): masks
for each token took 40 % of a step on a CPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

RATE = 0.1
"""Share of the features that a view lacks, wherever the base drops out."""
TWO = 2


class Views:
    """Of one encoder; outside of ``drawn`` nothing is left out.

    The lot is thrown by seed and step alone, so that a step is the same whether it is taken in parts or after a pause.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._lot: torch.Generator | None = None
        self._rows, self._batch = slice(0), 0

    @classmethod
    def within(cls, encoder: nn.Module, *, wanted: bool) -> "Views":
        """Puts itself where the encoder, a copy of our own, drops out; one that never does has but one view."""
        sites = [
            (part, name)
            for part in encoder.modules()
            for name, child in part.named_children()
            if type(child) is nn.Dropout
        ]
        views = cls(TWO if wanted and sites else 1)
        for part, name in sites if views.count > 1 else []:
            setattr(part, name, Lacking(views, part.get_submodule(name)))
        return views

    @contextmanager
    def drawn(self, seed: int, step: int, rows: slice, batch: int) -> Iterator[None]:
        """Some rows of a step's batch of so many go forward meanwhile, those of all views after each other."""
        self._rows, self._batch = rows, batch
        self._lot = torch.Generator().manual_seed(seed * 1_000_003 + step) if self.count > 1 else None
        try:
            yield
        finally:
            self._lot = None

    def of(self, hidden: Tensor) -> Tensor:
        """hidden [views * rows, seq, width] as the views see it."""
        if self._lot is None or hidden.dim() != 3:
            return hidden
        whole = torch.rand(self.count, self._batch, hidden.shape[-1], generator=self._lot) >= RATE
        kept = whole[:, self._rows].flatten(0, 1)[:, None] / (1 - RATE)
        return hidden * kept.to(hidden)


class Lacking(nn.Dropout):
    """In the place of a base's dropout."""

    def __init__(self, views: Views, former: nn.Module) -> None:
        super().__init__(float(former.p))  # type: ignore[arg-type]
        self._views = views

    def forward(self, input: Tensor) -> Tensor:
        """[rows, seq, width] with features left out while something learns."""
        return self._views.of(input)
