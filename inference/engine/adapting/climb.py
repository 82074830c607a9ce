"""The candidate that adapts an encoder: a method from the probe's head, epoch by epoch, the best by validation kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from tilth.contract import learning
from tilth.contract.learning import Rung
from tilth.contract.messages import Row, ServedBy
from torch import Tensor

from inference.engine.adapting.anew import learned_anew
from inference.engine.adapting.classifier import ENCODER, HEAD, Classifier, evaluate_logits, logits_of, of_encoder
from inference.engine.adapting.methods import METHODS
from inference.engine.adapting.recipe import Recipe
from inference.engine.adapting.steps import Run
from inference.engine.base_models import Base
from inference.engine.batches import batch_of, epoch_order
from inference.engine.candidate import Lesson, Outcome, Session
from inference.engine.checkpoints import Progress, optimiser_tensors, restore_optimiser
from inference.engine.encoder import TextEncoder
from inference.engine.errors import BudgetReached, Stopped, diverged
from inference.engine.heads import Head, head_file, read_head
from inference.engine.memory import Work, need
from inference.engine.probe import PROBE, head_of, report_scores
from inference.engine.reporting import Reporter

PATIENCE = 2
"""Epochs without a better validation score before training stops."""
Best = dict[str, Tensor] | None


@dataclass(frozen=True)
class Adapted:
    """An encoder, what a method learned in it (as files), and a head."""

    encoder: TextEncoder
    method: learning.Method
    changes: Mapping[str, bytes]
    head: Head

    @property
    def kind(self) -> str:
        """The method's name."""
        return self.method.value

    @property
    def served_by(self) -> ServedBy:
        """By the method."""
        return METHODS[self.method].served_by

    @property
    def base(self) -> Base:
        """The encoder's."""
        return self.encoder.base

    def outputs(self, rows: Sequence[Row]) -> Tensor:
        """[rows, width]."""
        encoder = METHODS[self.method].opened(self.changes, self.encoder.base)
        return logits_of(encoder, self.head, self.encoder.examples(rows))

    def files(self) -> dict[str, bytes]:
        """The method's files, and the head's."""
        return {**self.changes, **head_file(self.head)}


@dataclass(frozen=True)
class Adapt:
    """The candidate; ``rows_at_once`` of a batch go forward and back together, their gradients add up."""

    encoder: TextEncoder
    method: learning.Method
    recipe: Recipe
    rows_at_once: int
    probe: str = PROBE
    """The name of the probe from whose head it starts."""

    @property
    def name(self) -> str:
        """The method's."""
        return self.method.value

    @property
    def title(self) -> str:
        """The method's."""
        return METHODS[self.method].title

    @property
    def rung(self) -> Rung:
        """The method's."""
        return self.method.rung

    def size(self) -> str:
        """Rows, tokens, outputs."""
        return self.encoder.size()

    def need(self, tests: int) -> int:
        """By the shapes."""
        return need(work_of(self.encoder, self.method, self.recipe, tests, self.rows_at_once)).peak

    def smaller(self) -> Self | None:
        """Half the rows at once; None at one."""
        rows = min(self.rows_at_once, len(self.encoder.train))
        return None if rows == 1 else replace(self, rows_at_once=(rows + 1) // 2)

    def passes(self) -> float:
        """Three for each row's view and epoch, one for each row of validation."""
        learned = 3.0 * self.recipe.views * len(self.encoder.train)
        return self.recipe.epochs * (learned + len(self.encoder.validation))

    def learn(self, session: Session) -> Outcome | None:
        """None if not one epoch was evaluated within the budget."""
        return Climb(self, session).outcome()

    def reopen(self, files: Mapping[str, bytes]) -> Adapted:
        """From the files of its model."""
        return reopened(self.encoder, self.method, files)

    def again(self) -> float:
        """Three for each row's view and epoch."""
        return 3.0 * self.recipe.views * self.recipe.epochs * self.encoder.rows

    def relearned(self, session: Session, outcome: Outcome, lesson: Lesson) -> Adapted:
        """As many epochs as the best took, by the same schedule."""
        return self.anew(session, lesson, outcome.facts["best_epoch"] / self.recipe.epochs)

    def anew(self, session: Session, lesson: Lesson, share: float) -> Adapted:
        """What it learns from the lesson's training rows in such a share of its steps, judged by nothing."""
        learned = learned_anew(
            replace(self.encoder, lesson=lesson), self.method, self.recipe, probed(session, self.probe),
            share=share, rows_at_once=self.rows_at_once, session=session,
        )  # fmt: skip
        return adapted(self.encoder, self.method, self.recipe, learned)


def work_of(encoder: TextEncoder, method: learning.Method, recipe: Recipe, tests: int, batch: int) -> Work:
    """The shapes of a run by that method."""
    learns = METHODS[method].size(encoder.base.model, recipe)
    low = method in (learning.Method.LORA, learning.Method.DORA)
    scaled = method is learning.Method.DORA
    rank = recipe.rank if low else 0
    return encoder.work(tests, learns=learns, rank=rank, scaled=scaled, batch=batch, views=recipe.views)


def adapted(encoder: TextEncoder, method: learning.Method, recipe: Recipe, learned: Mapping[str, Tensor]) -> Adapted:
    """The model of what a classifier has learned."""
    changes = METHODS[method].files(of_encoder(learned), encoder.base, recipe)
    return Adapted(encoder, method, changes, Head(learned["head.weight"], learned["head.bias"]))


def reopened(encoder: TextEncoder, method: learning.Method, files: Mapping[str, bytes]) -> Adapted:
    """The model of files that it packed."""
    head = read_head(files)
    changes = {name: content for name, content in files.items() if name not in head_file(head)}
    return Adapted(encoder, method, changes, head)


class Climb:
    """One run of the candidate, from its start or from a checkpoint."""

    def __init__(self, candidate: Adapt, session: Session) -> None:
        self._candidate, self._session = candidate, session
        self._encoder, self._recipe = candidate.encoder, candidate.recipe
        self._reporter: Reporter = session.reporter
        torch.manual_seed(self._recipe.seed)
        head = probed(session, candidate.probe)
        self._model = Classifier(self._encoder.base, head, METHODS[candidate.method], self._recipe)
        batches = -(-len(self._encoder.train) // self._recipe.batch_size)
        self._run = Run(
            self._model, self._recipe, self._encoder.lesson.objective, steps=batches * self._recipe.epochs,
            rows_at_once=candidate.rows_at_once,
        )  # fmt: skip

    def outcome(self) -> Outcome | None:
        """Of the best epoch."""
        step = self._session.keeper.step
        at, best = self._resumed() or (
            Progress(self._candidate.name, self._candidate.rung, step, 0, 0, first=step),
            None,
        )
        try:
            while at.epoch < self._recipe.epochs and at.epoch - at.best_epoch <= PATIENCE:
                at = self._epoch(at, best)
                at, best = self._judge(at, best)
        except BudgetReached:
            self._reporter.note("The device time of the budget is used up; the best model so far is kept.")
        if self._run.rows_at_once < self._candidate.rows_at_once:
            self._reporter.note(f"Memory ran out; from then on {self._run.rows_at_once} rows of a batch went at once.")
        return self._best(at, best)

    def _resumed(self) -> tuple[Progress, Best] | None:
        kept = self._session.keeper.running(self._candidate.name)
        if kept is None:
            return None
        progress, tensors = kept
        self._model.restore({name: t for name, t in tensors.items() if name.startswith((ENCODER, HEAD))})
        restore_optimiser(self._run.optimiser, tensors)
        torch.set_rng_state(tensors["random"])
        if progress.threads != torch.get_num_threads():
            self._reporter.note(
                f"Paused with {progress.threads} threads, resumed with {torch.get_num_threads()}: the same but for"
                " rounding."
            )
        best = {name.removeprefix("best."): t for name, t in tensors.items() if name.startswith("best.")}
        return progress, best or None

    def _epoch(self, at: Progress, best: Best) -> Progress:
        """The rest of an epoch; a pause keeps a checkpoint first."""
        train, run = self._encoder.train, self._run
        order = epoch_order(train, self._recipe.batch_size, seed=self._recipe.seed, epoch=at.epoch)
        for rows in order[at.batch_in_epoch :]:
            self._check(at, best)
            step = at.step - at.first
            loss = run.step(batch_of(train, rows), step)
            if not loss < float("inf"):
                raise diverged(f"the loss became {loss} at step {step}")
            at = replace(at, step=at.step + 1, batch_in_epoch=at.batch_in_epoch + 1, epoch_loss=at.epoch_loss + loss)
            self._reporter.work(3.0 * self._recipe.views * len(rows))
            self._reporter.step(
                rung=self._candidate.rung, step=at.step, total_steps=at.first + run.steps, loss=loss,
                rate=run.optimiser.param_groups[0]["lr"], force=step == 0,
            )  # fmt: skip
        return at

    def _check(self, at: Progress, best: Best) -> None:
        try:
            self._reporter.check(at.step)
        except Stopped as stopped:
            if stopped.mode == "pause":
                self._keep(at, best, {})
            raise

    def _judge(self, at: Progress, best: Best) -> tuple[Progress, Best]:
        """Validation after an epoch, and its checkpoint; the best by score, then by loss, is kept."""
        outputs = evaluate_logits(self._model, self._encoder.validation)
        if not outputs.isfinite().all():
            raise diverged(f"after epoch {at.epoch + 1} the outputs are not finite")
        self._reporter.work(len(self._encoder.validation))
        lesson, rung = self._encoder.lesson, self._candidate.rung
        scores = report_scores(self._reporter, lesson, f"Epoch {at.epoch + 1}", rung, at.step, outputs)
        train_loss = at.epoch_loss / max(1, at.batch_in_epoch)
        history = [*at.history, {"epoch": at.epoch + 1, "step": at.step, "train_loss": train_loss, **scores}]
        score = scores[f"valid_{lesson.objective.selects}"] - 1e-6 * scores["valid_loss"]
        if score > at.best_score:
            best = {**self._model.learned(), "valid": outputs}
            at = replace(at, best_epoch=at.epoch, best_score=score)
        at = replace(at, epoch=at.epoch + 1, batch_in_epoch=0, epoch_loss=0.0, history=history)
        self._keep(at, best, {"train_loss": train_loss, **scores})
        return at, best

    def _keep(self, at: Progress, best: Best, metrics: dict[str, float]) -> None:
        tensors = {**self._model.learned(), **optimiser_tensors(self._run.optimiser)}
        tensors |= {f"best.{name}": tensor for name, tensor in (best or {}).items()}
        self._session.keeper.keep_running(at, tensors, metrics)

    def _best(self, at: Progress, best: Best) -> Outcome | None:
        if best is None:
            return None
        model = adapted(self._encoder, self._candidate.method, self._recipe, best)
        tokens = at.epoch * int(self._encoder.train.lengths.sum())
        facts = {**self._recipe.facts(self._candidate.method), "best_epoch": at.best_epoch + 1, "epochs": at.epoch}
        return Outcome(self._candidate.name, self._candidate.rung, model, best["valid"], None, tokens, facts)


def probed(session: Session, name: str = PROBE) -> Head:
    """The head of the probe of that name, from which a method starts."""
    return head_of(session.done[name])
