"""What a search may vary, and Optuna's sampler over it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState
from tilth.contract.learning import Method, Targets
from tilth.contract.messages import TrainingOptions

from inference.engine.adapting.recipe import RANK, Recipe

TOGETHER = 8
"""Trials that are asked for at once: few enough that later ones learn from them."""
Params = dict[str, Any]


@dataclass(frozen=True)
class Told:
    """A trial that has ended: its parameters, its last score, and whether it was run to its end."""

    params: Params
    score: float
    whole: bool


@dataclass(frozen=True)
class Space:
    """Around a recipe; what the customer has fixed does not vary."""

    around: Recipe
    method: Method
    varied: dict[str, BaseDistribution]

    @classmethod
    def of(cls, options: TrainingOptions, around: Recipe) -> "Space":
        """LoRA, or the method that was named; learning rate, rank, targets, smoothing, epochs, batch size."""
        method = options.method or Method.LORA
        size, epochs = around.batch_size, around.epochs
        wished: dict[str, tuple[bool, BaseDistribution]] = {
            "rate": (options.learning_rate_multiplier is None, FloatDistribution(0.2, 5.0, log=True)),
            "rank": (options.rank is None, CategoricalDistribution([4, 8, RANK])),
            "targets": (True, CategoricalDistribution([each.value for each in Targets])),
            "smoothing": (options.label_smoothing is None, CategoricalDistribution([0.0, 0.1])),
            "epochs": (options.epochs is None, CategoricalDistribution(sorted({epochs, max(1, epochs - 2)}))),
            "batch_size": (options.batch_size is None, CategoricalDistribution([size, 2 * size])),
            "layers": (True, CategoricalDistribution([1, 2, 3])),
        }
        unused = _unused(method)
        varied = {name: kind for name, (free, kind) in wished.items() if free and name not in unused}
        return cls(around, method, varied)

    def recipe(self, params: Params) -> Recipe:
        """The recipe of a trial."""
        found: Params = {name: Targets(value) if name == "targets" else value for name, value in params.items()}
        return replace(self.around, **found)

    def first(self) -> Params:
        """The recipe that is taken without a search is the first trial of every one."""
        facts = {name: getattr(self.around, name) for name in self.varied}
        return {name: value.value if isinstance(value, Targets) else value for name, value in facts.items()}

    def ask(self, ended: Sequence[Told], count: int, seed: int) -> list[Params]:
        """So many more, by what is known of those before (TPE: Bergstra et al. 2011); the same for the same history."""
        study = self._study(ended, seed)
        if not ended:
            study.enqueue_trial(self.first())
        return [study.ask(self.varied).params for _ in range(count)]

    def _study(self, ended: Sequence[Told], seed: int) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=TOGETHER, constant_liar=True, seed=seed * 1_000_003 + len(ended)
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials([self._frozen(told) for told in ended])
        return study

    def _frozen(self, told: Told) -> FrozenTrial:
        state = TrialState.COMPLETE if told.whole else TrialState.PRUNED
        return optuna.trial.create_trial(
            state=state, params=told.params, distributions=self.varied, value=told.score,
            intermediate_values={1: told.score},
        )  # fmt: skip


def _unused(method: Method) -> set[str]:
    """What does not matter to a method."""
    low_rank, layers = {"rank", "targets"}, {"layers"}
    match method:
        case Method.LORA | Method.DORA:
            return layers
        case Method.LAST_LAYERS:
            return low_rank
    return low_rank | layers
