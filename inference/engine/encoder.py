"""A base that reads texts, over one lesson: what the probe and every way to adapt share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from tilth.contract.messages import Row, TrainingOptions

from inference.engine.adapting.recipe import Recipe
from inference.engine.base_models import Base
from inference.engine.candidate import Lesson
from inference.engine.memory import ENCODED, Encoder, Work
from inference.engine.precision import has_fast_bf16
from inference.engine.spill import Ragged
from inference.engine.task import Examples

EVALUATION_BATCH = 64
Encode = Callable[[Sequence[Row]], list[list[int]]]


@dataclass(frozen=True)
class TextEncoder:
    """The base with a task's way to encode; each split is encoded once."""

    base: Base
    lesson: Lesson
    encode: Encode
    options: TrainingOptions
    names: Mapping[int, Row] = field(default_factory=dict)
    """By a label's number the row that says what it is called; empty where rows have no labels, or labels no words."""

    @property
    def rows(self) -> int:
        """Of training and validation."""
        return len(self.lesson.train) + len(self.lesson.validation)

    @cached_property
    def train(self) -> Examples:
        """Training rows."""
        return Examples(self._encoded(self.lesson.train), self.lesson.train_targets)

    @cached_property
    def validation(self) -> Examples:
        """Validation rows."""
        return Examples(self._encoded(self.lesson.validation), self.lesson.validation_targets)

    @cached_property
    def named(self) -> Examples:
        """What labels are called, each as an example of its label."""
        return Examples(self._encoded(list(self.names.values())), torch.tensor(list(self.names), dtype=torch.long))

    @cached_property
    def recipe(self) -> Recipe:
        """The numbers of a run, with everything "auto" settled."""
        return Recipe.settled(self.options, len(self.lesson.train))

    def examples(self, rows: Sequence[Row]) -> Examples:
        """Rows without targets."""
        return Examples(self._encoded(rows), torch.full((len(rows),), float("nan")))

    def _encoded(self, rows: Sequence[Row]) -> Ragged:
        """A part of the rows at a time."""
        parts = (self.encode(rows[at : at + ENCODED]) for at in range(0, len(rows), ENCODED))
        return Ragged(ids for part in parts for ids in part)

    def size(self) -> str:
        """In a sentence."""
        return f"{self.rows:,} rows of at most {self.longest} tokens and {self.lesson.objective.width:,} outputs"

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return int(torch.cat([self.train.lengths, self.validation.lengths]).max())

    def work(
        self, tests: int, *, learns: int = 0, rank: int = 0, scaled: bool = False, batch: int = 1, views: int = 1
    ) -> Work:
        """The shapes of what is done; where nothing learns, no more than the probe."""
        return Work(
            encoder=self._shape,
            rows=(len(self.train), len(self.validation), tests),
            longest=self.longest,
            classes=self.lesson.objective.width,
            rank=rank,
            learns=learns,
            scaled=scaled,
            batch=min(batch, len(self.train)),
            views=views,
            evaluated=EVALUATION_BATCH,
            half=has_fast_bf16(),
        )

    @cached_property
    def _shape(self) -> Encoder:
        facts: Any = self.base.model.config
        parameters = sum(part.numel() for part in self.base.model.parameters())
        return Encoder(
            facts.hidden_size, facts.intermediate_size, facts.num_hidden_layers, facts.num_attention_heads, parameters
        )
