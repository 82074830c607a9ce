"""What all trials of a search stand on, here or in another process."""

from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from tilth.contract.messages import TrainingOptions
from torch import Tensor

from inference.engine.base_models import Base
from inference.engine.candidate import Lesson
from inference.engine.encoder import TextEncoder
from inference.engine.heads import Head
from inference.engine.search.sampler import Params
from inference.engine.search.space import Space
from inference.engine.search.trial import Trial
from inference.engine.spill import Ragged
from inference.engine.task import Examples


@dataclass(frozen=True)
class Ground:
    """The space, and in the order of its bases their encoders, of one lesson, and their probes' heads."""

    space: Space
    encoders: tuple[TextEncoder, ...]
    heads: tuple[Head, ...]

    @property
    def lesson(self) -> Lesson:
        """Every encoder's."""
        return self.encoders[0].lesson

    def encoder(self, params: Params) -> TextEncoder:
        """That of a trial."""
        return self.encoders[self._at(params)]

    def begun(self, number: int, params: Params) -> Trial:
        """A trial at its start."""
        method, recipe, encoder = self.space.method(params), self.space.recipe(params), self.encoder(params)
        return Trial.begun(number, params, method, recipe, encoder, self.heads[self._at(params)])

    def packed(self) -> "Packed":
        """As it crosses to a worker."""
        examples = tuple((Encoded.of(each.train), Encoded.of(each.validation)) for each in self.encoders)
        return Packed(self.space, self.heads, replace(self.lesson, train=[], validation=[]), examples)

    def _at(self, params: Params) -> int:
        return self.space.bases.index(self.space.base(params))


@dataclass(frozen=True)
class Packed:
    """A ground without its base models, which a worker loads, and without rows: they are encoded."""

    space: Space
    heads: tuple[Head, ...]
    lesson: Lesson
    examples: tuple[tuple["Encoded", "Encoded"], ...]
    """Of each base (training, validation)."""

    def opened(self, base: Callable[[str], Base]) -> Ground:
        """On base models by their ids."""
        pairs = zip(self.space.bases, self.examples, strict=True)
        return Ground(self.space, tuple(self._encoder(base(id_), *pair) for id_, pair in pairs), self.heads)

    def _encoder(self, base: Base, train: "Encoded", validation: "Encoded") -> TextEncoder:
        encoder = TextEncoder(base, self.lesson, _encoded_already, TrainingOptions())
        vars(encoder).update(train=train.examples(), validation=validation.examples())  # its cached properties
        return encoder


@dataclass(frozen=True)
class Encoded:
    """Examples as they cross: tokens of all rows one after the other, how many each has [rows], and targets [rows]."""

    tokens: Tensor
    lengths: Tensor
    targets: Tensor

    @classmethod
    def of(cls, examples: Examples) -> "Encoded":
        """Of rows that may lie in a file of this process."""
        tokens = array("i")
        for ids in examples.ids:
            tokens.extend(ids)
        return cls(torch.frombuffer(tokens, dtype=torch.int32), examples.lengths, examples.targets)

    def examples(self) -> Examples:
        """In a file of the process that asks."""
        rows = torch.split(self.tokens, self.lengths.tolist())
        return Examples(Ragged(row.tolist() for row in rows), self.targets)


def _encoded_already(rows: object) -> list[list[int]]:
    raise AssertionError("a worker's rows were encoded where the search runs")
