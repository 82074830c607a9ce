"""A trial of a search: its recipe, its run, and the best that it has shown on validation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from tilth.contract.learning import Method
from torch import Tensor

from inference.engine.adapting.classifier import Classifier
from inference.engine.adapting.methods import METHODS
from inference.engine.adapting.recipe import Recipe
from inference.engine.adapting.steps import Run
from inference.engine.checkpoints import below, optimiser_tensors, restore_optimiser
from inference.engine.encoder import TextEncoder
from inference.engine.heads import Head
from inference.engine.search.halving import rung_steps
from inference.engine.search.sampler import Params
from inference.engine.search.space import BASE

OPTIMISER = "optimiser."
State = Literal["running", "stopped", "ended", "diverged"]


@dataclass
class Trial:
    """One configuration at work."""

    number: int
    params: Params
    method: Method
    recipe: Recipe
    encoder: TextEncoder
    run: Run
    learns: int
    """Numbers that learn in the encoder."""
    step: int = 0
    """Of its own."""
    judged: int = 0
    """Its step at its last judgement."""
    score: float = float("-inf")
    """Of that."""
    device_ms: int = 0
    """Its share of what was spent on it and those beside it."""
    state: State = "running"
    facts: dict[str, Any] = field(default_factory=dict)
    """What its last judgement said."""

    @classmethod
    def begun(
        cls, number: int, params: Params, method: Method, recipe: Recipe, encoder: TextEncoder, head: Head
    ) -> "Trial":
        """From the probe's head; each begins where a run alone with its seed would."""
        torch.manual_seed(recipe.seed)
        model = Classifier(encoder.base, head, METHODS[method], recipe)
        steps = -(-len(encoder.train) // recipe.batch_size) * recipe.epochs
        run = Run(model, recipe, encoder.lesson.objective, steps=steps)
        return cls(number, params, method, recipe, encoder, run, METHODS[method].size(encoder.base.model, recipe))

    def points(self) -> list[int]:
        """Steps at which it is judged: at each rung, and from the last but one on after each epoch, too."""
        rungs, epoch = rung_steps(self.run.steps), self.run.steps // self.recipe.epochs
        later = [at for at in range(epoch, self.run.steps, epoch) if at > rungs[-2]]
        return sorted({*rungs, *later})

    @property
    def far(self) -> bool:
        """Whether it is past all rungs but the last, in the part of the schedule in which a run settles."""
        return self.step > rung_steps(self.run.steps)[-2]

    def run_away(self) -> None:
        """Its numbers are no longer finite: it ends behind all others."""
        self.state, self.score = "diverged", float("-inf")

    def line(self) -> dict[str, Any]:
        """For the board."""
        recipe = self.recipe.facts(self.method)
        recipe |= {"epochs": self.recipe.epochs, "smoothing": self.recipe.smoothing}
        recipe |= {BASE: self.params[BASE]} if BASE in self.params else {}
        told = {"trial": self.number, "state": self.state, "steps": self.step, "of_steps": self.run.steps}
        return {**told, **recipe, **self.facts, "learns": self.learns, "device_ms": self.device_ms}

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {**self.run.model.learned(), **optimiser_tensors(self.run.optimiser)}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Takes over what ``tensors`` and ``plain`` gave."""
        self.run.model.restore(tensors)
        restore_optimiser(self.run.optimiser, dict(tensors))
        self.step, self.judged, self.device_ms = facts["step"], facts["judged"], facts["device_ms"]
        self.score, self.state, self.facts = facts["score"], facts["state"], facts["facts"]

    def plain(self) -> dict[str, Any]:
        """For a checkpoint, in plain data."""
        return {"number": self.number, "params": self.params, "step": self.step, "judged": self.judged,
                "score": self.score, "device_ms": self.device_ms, "state": self.state, "facts": self.facts}  # fmt: skip


def of_trial(number: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of a trial in a checkpoint."""
    return below(f"trial.{number}.", tensors)
