"""Climbs the rungs: a frozen base with a probe, then LoRA; keeps the better by a paired bootstrap."""

from dataclasses import dataclass, replace

import torch
from tilth.contract.messages import Rung, TrainingOptions
from torch import Tensor

from inference.engine.base_models import Base
from inference.engine.batches import batch_of, epoch_order
from inference.engine.checkpoints import Progress, optimiser_tensors, restore_optimiser
from inference.engine.errors import BudgetReached, JobFault, Stopped
from inference.engine.evaluate import accuracy, cross_entropy, error_upper_bound
from inference.engine.keeping import Keeper
from inference.engine.lora import Classifier, Recipe, Run, adapter_config, evaluate_logits
from inference.engine.outcome import Comparison, Outcome, compare
from inference.engine.probe import FEATURE_BATCH, Head, LiveHead, Tick, feature_batches, fit_probe, frozen_features
from inference.engine.reporting import Reporter
from inference.engine.task import Examples

PATIENCE = 2
"""Epochs without a better validation score before training stops."""


@dataclass(frozen=True)
class Encoded:
    """In-scope training rows and all validation rows (out of scope: target -1)."""

    train: Examples
    validation: Examples
    classes: int


@dataclass(frozen=True)
class Climbed:
    """The chosen outcome and why it was chosen."""

    outcome: Outcome
    reason: str
    comparison: Comparison | None = None


class Ladder:
    """One climb over one dataset; ``keeper`` holds what a resume needs."""

    def __init__(
        self,
        base: Base,
        data: Encoded,
        options: TrainingOptions,
        reporter: Reporter,
        keeper: Keeper,
        rows_at_once: int | None = None,
    ) -> None:
        """``rows_at_once``: of a batch of LoRA's, as memory allows; None is the whole batch."""
        self._base = base
        self._data = data
        self._options = options
        self._reporter = reporter
        self._keeper = keeper
        self._known = data.validation.targets >= 0
        self._recipe = Recipe.settled(options, len(data.train))
        self._rows_at_once = rows_at_once or self._recipe.batch_size

    def climb(self) -> Climbed:
        """The best model for the budget; raises Stopped between two steps, JobFault if nothing can be learned."""
        probe = self._keeper.probe or self._probe()
        if self._options.highest_rung is not Rung.LORA:
            return Climbed(probe, "the job asked for no more than the probe")
        errors = int((self._right(probe.valid_logits) == 0).sum())
        most = error_upper_bound(errors, int(self._known.sum()))
        if most < self._options.minimum_gain:
            return Climbed(probe, f"LoRA could gain at most {100 * most:.2f} points")
        return self._choose(probe)

    def _choose(self, probe: Outcome) -> Climbed:
        lora = self._lora(probe)
        if lora is None:
            return Climbed(probe, "the device time of the budget ended before LoRA's first epoch")
        compared = compare(lora, probe, self._data.validation.targets)
        interval = f"{100 * compared.gain:+.2f} points [{100 * compared.low:+.2f}, {100 * compared.high:+.2f}]"
        if compared.worth_it:
            return Climbed(lora, f"LoRA over the probe on validation: {interval}", compared)
        return Climbed(probe, f"LoRA gains too little over the probe on validation: {interval}", compared)

    def _right(self, logits: Tensor) -> Tensor:
        return logits[self._known].argmax(1) == self._data.validation.targets[self._known]

    def _probe(self) -> Outcome:
        def tick(rows: int) -> None:
            self._reporter.work(rows)
            self._reporter.check(0)

        try:
            train, live = self._features_of_train(tick)
            valid = frozen_features(self._base, self._data.validation, tick)
        except BudgetReached as end:
            raise JobFault("budget_too_small", f"{end} before any model was learned; raise the budget") from end
        known = valid[self._known], self._data.validation.targets[self._known]
        head, strength = fit_probe(train, self._data.train.targets, *known, live)
        outcome = Outcome(Rung.PROBE, head, head.logits(valid))
        self._report_scores("Probe", Rung.PROBE, 0, outcome.valid_logits)
        self._keeper.keep_probe(outcome, strength)
        return outcome

    def _features_of_train(self, tick: Tick) -> tuple[Tensor, Head]:
        """Features of the training rows, and a head that learned from each batch as it came."""
        vectors = torch.zeros(len(self._data.train), self._base.hidden_size)
        live = LiveHead(self._base.hidden_size, self._data.classes)
        order = epoch_order(self._data.train, FEATURE_BATCH, seed=self._recipe.seed, epoch=0)
        batches = (batch_of(self._data.train, rows) for rows in order)
        for number, (batch, found) in enumerate(feature_batches(self._base, batches), 1):
            vectors[batch.rows] = found
            loss = live.step(found, batch.targets)
            self._reporter.step(rung=Rung.PROBE, step=number, total_steps=len(order), loss=loss, force=number == 1)
            tick(len(batch.rows))
        return vectors, live.head()

    def _report_scores(self, name: str, rung: Rung, step: int, logits: Tensor) -> dict[str, float]:
        known, targets = logits[self._known], self._data.validation.targets[self._known]
        scores = {"valid_loss": cross_entropy(known, targets), "valid_accuracy": accuracy(known.argmax(1), targets)}
        told = f"{name}: validation accuracy={scores['valid_accuracy']:.4f}, loss={scores['valid_loss']:.4f}"
        self._reporter.scores(told, rung=rung, step=step, **scores)
        return scores

    def _lora(self, probe: Outcome) -> Outcome | None:
        """Trains LoRA from the probe's head; None if not one epoch was evaluated within the budget."""
        torch.manual_seed(self._recipe.seed)
        model = Classifier(self._base, probe.head, self._recipe.rank)
        batches = -(-len(self._data.train) // self._recipe.batch_size)
        run = Run(model, self._recipe, steps=batches * self._recipe.epochs, rows_at_once=self._rows_at_once)
        at, best = self._resumed(run) or (Progress(Rung.LORA, 0, 0, 0), None)
        try:
            while at.epoch < self._recipe.epochs and at.epoch - at.best_epoch <= PATIENCE:
                at = self._epoch(run, at, best)
                at, best = self._judge(run, at, best)
        except BudgetReached:
            self._reporter.note("The device time of the budget is used up; the best model so far is kept.")
        if run.rows_at_once < self._rows_at_once:
            self._reporter.note(f"Memory ran out; from then on {run.rows_at_once} rows of a batch went at once.")
        return self._best(model, best)

    def _resumed(self, run: Run) -> tuple[Progress, dict[str, Tensor] | None] | None:
        if (kept := self._keeper.lora) is None:
            return None
        progress, tensors = kept
        run.model.restore({name: t for name, t in tensors.items() if name.startswith(("lora.", "head."))})
        restore_optimiser(run.optimiser, tensors)
        torch.set_rng_state(tensors["random"])
        best = {name.removeprefix("best."): t for name, t in tensors.items() if name.startswith("best.")}
        return progress, best or None

    def _epoch(self, run: Run, at: Progress, best: dict[str, Tensor] | None) -> Progress:
        """The rest of an epoch; a pause keeps a checkpoint first."""
        order = epoch_order(self._data.train, self._recipe.batch_size, seed=self._recipe.seed, epoch=at.epoch)
        for rows in order[at.batch_in_epoch :]:
            try:
                self._reporter.check(at.step)
            except Stopped as stopped:
                if stopped.mode == "pause":
                    self._keep(run, at, best, {})
                raise
            loss = run.step(batch_of(self._data.train, rows), at.step)
            if not loss < float("inf"):
                raise JobFault("diverged", f"the loss became {loss} at step {at.step}; lower learning_rate_multiplier")
            at = replace(at, step=at.step + 1, batch_in_epoch=at.batch_in_epoch + 1, epoch_loss=at.epoch_loss + loss)
            self._reporter.work(3.0 * len(rows))
            self._reporter.step(rung=Rung.LORA, step=at.step, total_steps=run.steps, loss=loss, force=at.step == 1)
        return at

    def _judge(
        self, run: Run, at: Progress, best: dict[str, Tensor] | None
    ) -> tuple[Progress, dict[str, Tensor] | None]:
        """Validation after an epoch, and its checkpoint; the best by accuracy, then by loss, is kept."""
        logits = evaluate_logits(run.model, self._data.validation)
        self._reporter.work(len(self._data.validation))
        scores = self._report_scores(f"Epoch {at.epoch + 1}", Rung.LORA, at.step, logits)
        train_loss = at.epoch_loss / max(1, at.batch_in_epoch)
        history = [*at.history, {"epoch": at.epoch + 1, "step": at.step, "train_loss": train_loss, **scores}]
        score = scores["valid_accuracy"] - 1e-6 * scores["valid_loss"]
        if score > at.best_score:
            best = {**run.model.learned(), "valid_logits": logits}
            at = replace(at, best_epoch=at.epoch, best_score=score)
        at = replace(at, epoch=at.epoch + 1, batch_in_epoch=0, epoch_loss=0.0, history=history)
        self._keep(run, at, best, {"train_loss": train_loss, **scores})
        return at, best

    def _keep(self, run: Run, at: Progress, best: dict[str, Tensor] | None, metrics: dict[str, float]) -> None:
        tensors = {**run.model.learned(), **optimiser_tensors(run.optimiser)}
        tensors |= {f"best.{name}": tensor for name, tensor in (best or {}).items()}
        self._keeper.keep_lora(at, tensors, metrics)

    def _best(self, model: Classifier, best: dict[str, Tensor] | None) -> Outcome | None:
        if best is None:
            return None
        lora = {name.removeprefix("lora."): t for name, t in best.items() if name.startswith("lora.")}
        head = Head(best["head.weight"], best["head.bias"])
        return Outcome(Rung.LORA, head, best["valid_logits"], lora, adapter_config(model.config, self._base))
