"""Trials that step together: one joint step where all are LoRA on one base, each by itself otherwise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

import torch
from tilth.contract.learning import Method
from torch import Tensor

from inference.engine.adapting.classifier import evaluate_logits
from inference.engine.adapting.steps import losses, schedule, take_step, within_memory
from inference.engine.batches import Batch, batch_of, by_length, epoch_order
from inference.engine.encoder import EVALUATION_BATCH, TextEncoder
from inference.engine.search.joint import Joint
from inference.engine.search.trial import Trial
from inference.engine.task import Examples

LEAST_EVALUATED = 8
Stepped = Callable[[Sequence[Trial], Batch, Sequence[float]], None]
"""Called after each step with the trials that took it; may raise Stopped or BudgetReached before the next."""


@dataclass
class Team:
    """Trials of one base, method and batch size; ``rows_at_once`` of all their rows go forward and back together."""

    trials: list[Trial]
    rows_at_once: int
    _order: tuple[int, list[Tensor]] | None = field(default=None, init=False)
    _joint: tuple[tuple[int, ...], Joint] | None = field(default=None, init=False)

    @property
    def encoder(self) -> TextEncoder:
        """That of all of them."""
        return self.trials[0].encoder

    def advance(self, goals: dict[int, int], stepped: Stepped) -> None:
        """Each trial that has a goal to it, those behind first."""
        going = [each for each in self.trials if each.number in goals]
        while behind := [each for each in going if each.state == "running" and each.step < goals[each.number]]:
            front = min(each.step for each in behind)
            at_front = [each for each in behind if each.step == front]
            batch = self._batch(at_front[0], front)
            told = self._step(at_front, batch, front)
            for each, loss in zip(at_front, told, strict=True):
                each.step += 1
                if not loss < float("inf"):
                    each.run_away()
            stepped(at_front, batch, told)

    def outputs(self, trials: Sequence[Trial], examples: Examples) -> list[Tensor]:
        """Of each trial [rows, width] in the examples' order."""
        if len(trials) == 1:
            return [evaluate_logits(trials[0].run.model, examples)]
        found = [torch.zeros(len(examples), self.encoder.lesson.objective.width) for _ in trials]
        joint = self._joined(trials)
        with torch.no_grad():
            for batch in by_length(examples, max(LEAST_EVALUATED, EVALUATION_BATCH // len(trials))):
                for kept, logits in zip(found, joint(batch), strict=True):
                    kept[batch.rows] = logits.cpu()
        return found

    def _batch(self, trial: Trial, step: int) -> Batch:
        size, train = trial.recipe.batch_size, self.encoder.train
        epoch, at = divmod(step, -(-len(train) // size))
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, epoch_order(train, size, seed=trial.recipe.seed, epoch=epoch)
        return batch_of(train, self._order[1][at])

    def _step(self, trials: Sequence[Trial], batch: Batch, number: int) -> list[float]:
        if len(trials) == 1:
            trials[0].run.rows_at_once = self.rows_at_once
            loss = trials[0].run.step(batch, number)
            self.rows_at_once = trials[0].run.rows_at_once
            return [loss]
        each = self.rows_at_once // len(trials)
        told, each = within_memory(partial(self._gradients, trials, batch), each, batch)
        self.rows_at_once = each * len(trials)
        for trial, loss in zip(trials, told, strict=True):
            if loss < float("inf"):
                take_step(trial.run.optimiser, schedule(number, trial.run.steps))
        return told

    def _gradients(self, trials: Sequence[Trial], batch: Batch, at_once: int) -> list[float]:
        """Each trial's mean loss of the batch, its gradients laid down: a sum, since none depends on another's."""
        joint, size, told = self._joined(trials), len(batch.rows), [0.0] * len(trials)
        for trial in trials:
            trial.run.optimiser.zero_grad()
        for _, part in batch.parts(max(1, at_once)):
            found = [
                losses(trial.run.objective, trial.recipe, outputs, part.targets).sum() / size
                for trial, outputs in zip(trials, joint(part), strict=True)
            ]
            torch.stack(found).sum().backward()  # type: ignore[no-untyped-call]
            told = [before + float(loss.item()) for before, loss in zip(told, found, strict=True)]
        return told

    def _joined(self, trials: Sequence[Trial]) -> Joint:
        """Made again when others step together."""
        numbers = tuple(trial.number for trial in trials)
        if self._joint is None or self._joint[0] != numbers:
            joint = Joint(self.encoder.base, [trial.run.model for trial in trials])
            joint.eval()
            self._joint = (numbers, joint)
        return self._joint[1]


def teams(trials: Sequence[Trial], rows_at_once: int) -> list[Team]:
    """As many together as have the rows of a batch each; what is not LoRA is alone."""

    def alike(trial: Trial) -> tuple[str, str, int]:
        return trial.encoder.base.id, trial.method.value, trial.recipe.batch_size

    made = []
    for (_, method, size), group in groupby(sorted(trials, key=alike), key=alike):
        together = max(1, rows_at_once // size) if method == Method.LORA else 1
        members = list(group)
        parts = [members[at : at + together] for at in range(0, len(members), together)]
        made += [Team(part, rows_at_once) for part in parts]
    return made
