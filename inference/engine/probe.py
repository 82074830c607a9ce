"""The second rung: a frozen base, features computed once, and the objective's linear model on top."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from tilth.contract.learning import Rung
from tilth.contract.messages import Row, ServedBy
from torch import Tensor

from inference.adapters.folder import adapter_files
from inference.engine.adapting.classifier import logits_of, vectors_of
from inference.engine.base_models import Base
from inference.engine.batches import Batch, batch_of, by_length, epoch_order
from inference.engine.candidate import Lesson, Outcome, Session
from inference.engine.crossing import crossed, folds, groups_of
from inference.engine.encoder import TextEncoder
from inference.engine.errors import BudgetReached
from inference.engine.fitting import Fitted, LiveHead, Taught, fit_linear, fit_probe
from inference.engine.heads import Head, head_file, read_head, unchanged
from inference.engine.memory import need
from inference.engine.reporting import Reporter
from inference.engine.spill import spills, zeros
from inference.engine.task import Examples

FEATURE_BATCH = 64
SHARES = (1, 2)
"""Of crossing's five folds, for the learning curve."""
NAMED = 50
"""Rows for each label, up to which it is tried whether what labels are called helps (banking77: at 5 by two points, at
10 by half a point).
"""
NAMES = "names"
"""In the facts of an outcome: that they helped."""
PROBE = "probe"
"""Its name on the job's own base; ``probe-2`` … on others."""

Tick = Callable[[int], None]
"""Called after each batch with the rows done; may raise Stopped or BudgetReached."""


def frozen_features(base: Base, examples: Examples, tick: Tick) -> Tensor:
    """Mean-pooled unit vectors [rows, hidden] of the frozen base."""
    vectors = zeros(len(examples), base.hidden_size)
    for batch, found in feature_batches(base, by_length(examples, FEATURE_BATCH)):
        vectors[batch.rows] = found
        tick(len(batch.rows))
    return vectors


def feature_batches(base: Base, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Tensor]]:
    """Each batch with its vectors [batch, hidden]."""
    for batch in batches:
        with torch.no_grad():
            found = vectors_of(base.model, batch).cpu()
        yield batch, found


@dataclass(frozen=True)
class ProbeModel:
    """A head on a frozen encoder; in a slot of the host it is an adapter that changes nothing."""

    encoder: TextEncoder
    head: Head
    kind = PROBE
    served_by = ServedBy.STACKED

    @property
    def base(self) -> Base:
        """The encoder's."""
        return self.encoder.base

    def outputs(self, rows: Sequence[Row]) -> Tensor:
        """[rows, width]."""
        return logits_of(self.encoder.base.model, self.head, self.encoder.examples(rows))

    def files(self) -> dict[str, bytes]:
        """peft's files of an adapter of zeros, and the head."""
        return adapter_files(*unchanged(self.encoder.base)) | head_file(self.head)


@dataclass(frozen=True)
class Probe:
    """The candidate."""

    encoder: TextEncoder
    name: str = PROBE
    title: str = "the probe"
    rung: Rung = Rung.PROBE
    rows_at_once: int | None = None
    crossed: bool = False
    """Whether it is cross-fitted, too: for comparison with others that are, and for what that tells of the rows."""

    @classmethod
    def of(cls, encoder: TextEncoder, number: int, *, crossed: bool) -> "Probe":
        """On the base of that number among a job's, from 0."""
        if number == 0:
            return cls(encoder, crossed=crossed)
        return cls(encoder, probe_name(number), f"the probe of {encoder.base.id}", crossed=crossed)

    def size(self) -> str:
        """Rows, tokens, outputs."""
        return self.encoder.size()

    def need(self, tests: int) -> int:
        """By the shapes."""
        found = need(self.encoder.work(tests))
        return max(found.probe, found.finish)

    def smaller(self) -> None:
        """Its batches are small already."""

    def passes(self) -> float:
        """One for each row."""
        return float(self.encoder.rows)

    def learn(self, session: Session) -> Outcome:
        """Features once, then the head whose penalty scores best on validation."""
        encoder, objective = self.encoder, self.encoder.lesson.objective

        def tick(rows: int) -> None:
            session.reporter.work(rows)
            session.reporter.check(session.keeper.step)

        train, live = self._features_of_train(session.reporter, tick)
        valid = frozen_features(encoder.base, encoder.validation, tick)
        known = encoder.lesson.known
        seen = valid if known.all() else valid[known]
        judged = seen, encoder.validation.targets[known]
        taught = Taught(train, encoder.train.targets)
        found = fit_probe(taught, *judged, live, objective)
        if names := self._names(tick):
            more = replace(taught, named=names)
            named = fit_probe(more, *judged, live, objective)
            taught, found = (more, named) if named.score >= found.score else (taught, found)
        head = found.head
        outputs = head.logits(valid)
        title = self.title.removeprefix("the ")
        report_scores(session.reporter, encoder.lesson, title[0].upper() + title[1:], self.name, 0, outputs)
        facts: dict[str, Any] = {"strength": found.strength}
        facts |= {NAMES: True} if taught.named else {}
        facts |= {} if self.name == PROBE else {"base_model": encoder.base.id}
        tokens = int(encoder.train.lengths.sum())
        others = None
        if self.crossed and not spills(*train.shape):
            with suppress(BudgetReached):  # there is a model: the budget has ended its comparison, not the job
                others = _crossed(taught, encoder.lesson, found, session)
                facts["curve"] = _curve(taught, encoder.lesson, found, judged)
        return Outcome(self.name, self.rung, ProbeModel(encoder, head), outputs, others, tokens, facts)

    def reopen(self, files: Mapping[str, bytes]) -> ProbeModel:
        """From the head."""
        return ProbeModel(self.encoder, read_head(files))

    def again(self) -> float:
        """One for each row."""
        return float(self.encoder.rows)

    def relearned(self, session: Session, outcome: Outcome, lesson: Lesson) -> ProbeModel:
        """Of the same strength, with names if those helped."""
        encoder = replace(self.encoder, lesson=lesson)

        def tick(rows: int) -> None:
            session.reporter.check(session.keeper.step)
            session.reporter.work(rows)

        vectors = frozen_features(encoder.base, encoder.train, tick)
        taught = Taught(vectors, lesson.train_targets, self._names(tick) if NAMES in outcome.facts else None)
        head = fit_linear(*taught.all(), outcome.facts["strength"], head_of(outcome), lesson.objective)
        return ProbeModel(self.encoder, head)

    def _names(self, tick: Tick) -> tuple[Tensor, Tensor] | None:
        """(vectors [names, hidden], targets [names]) of what labels are called, where rows are so few that it helps."""
        encoder = self.encoder
        if not encoder.names or len(encoder.train) > NAMED * encoder.lesson.objective.width:
            return None
        return frozen_features(encoder.base, encoder.named, tick), encoder.named.targets

    def _features_of_train(self, reporter: Reporter, tick: Tick) -> tuple[Tensor, Head]:
        """Features of the training rows, and a head that learned from each batch as it came."""
        base, train = self.encoder.base, self.encoder.train
        vectors = zeros(len(train), base.hidden_size)
        live = LiveHead(base.hidden_size, self.encoder.lesson.objective)
        order = epoch_order(train, FEATURE_BATCH, seed=self.encoder.lesson.seed, epoch=0)
        batches = (batch_of(train, rows) for rows in order)
        for number, (batch, found) in enumerate(feature_batches(base, batches), 1):
            vectors[batch.rows] = found
            loss = live.step(found, batch.targets)
            reporter.step(rung=self.name, step=number, total_steps=len(order), loss=loss, force=number == 1)
            tick(len(batch.rows))
        return vectors, live.head()


def head_of(outcome: Outcome) -> Head:
    """A probe's."""
    if not isinstance(outcome.model, ProbeModel):
        raise TypeError(f"{outcome.name} is a {type(outcome.model).__name__}; expected a probe")
    return outcome.model.head


def probe_name(number: int) -> str:
    """Of the probe on a job's base of that number, from 0."""
    return f"{PROBE}-{number + 1}" if number else PROBE


def _crossed(taught: Taught, lesson: Lesson, found: Fitted, session: Session) -> Tensor:
    """[training rows, width]: each row by a head of the same strength that has not seen it."""
    objective = lesson.objective

    def fit(rows: Tensor, held: Tensor) -> Head:
        session.reporter.check(session.keeper.step)
        return fit_linear(*taught.of(rows), found.strength, found.head, objective)

    fold = folds(taught.targets, lesson.seed, groups_of(lesson.train))
    return crossed(fold, objective.width, fit, lambda head, rows: head.logits(taught.vectors[rows]))[1]


def _curve(taught: Taught, lesson: Lesson, found: Fitted, judged: tuple[Tensor, Tensor]) -> list[list[float]]:
    """[rows, score on validation] of heads that learned from a fifth, from two fifths, and from all rows."""
    valid, targets = judged
    objective, made = lesson.objective, list[list[float]]()
    fold = folds(lesson.train_targets, lesson.seed, groups_of(lesson.train))
    for parts in SHARES:
        rows = torch.nonzero(fold < parts).flatten()
        fitted = fit_linear(*taught.of(rows), found.strength, found.head, objective)
        made.append([len(rows), objective.score(fitted.logits(valid), targets)])
    return [*made, [len(taught.vectors), objective.score(found.head.logits(valid), targets)]]


def report_scores(
    reporter: Reporter, lesson: Lesson, name: str, rung: str, step: int, outputs: Tensor
) -> dict[str, float]:
    """Loss and score on validation, told and returned."""
    known, selects = lesson.known, lesson.objective.selects
    found, targets = outputs[known], lesson.validation_targets[known]
    loss = float(lesson.objective.loss(found.double(), targets).mean().item())
    scores = {"valid_loss": loss, f"valid_{selects}": lesson.objective.score(found, targets)}
    told = f"{name}: validation {selects}={scores[f'valid_{selects}']:.4f}, loss={loss:.4f}"
    reporter.scores(told, rung=rung, step=step, **scores)
    return scores
