"""Optuna's sampler, made anew from the history for each question."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

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
class Sampler:
    """``firsts`` are asked for before any other; ``suggest`` takes a trial's parameters from it, one by one."""

    varied: Mapping[str, BaseDistribution]
    firsts: Sequence[Params]
    suggest: Callable[[optuna.Trial], Params]

    @classmethod
    def of(cls, varied: Mapping[str, BaseDistribution], firsts: Sequence[Params]) -> "Sampler":
        """Where no parameter depends on another."""
        return cls(varied, firsts, lambda trial: {name: suggested(trial, name, kind) for name, kind in varied.items()})

    def ask(self, ended: Sequence[Told], count: int, seed: int) -> list[Params]:
        """So many more, by what is known of those before (TPE: Bergstra et al. 2011); the same for the same history."""
        study = self._study(ended, seed)
        for first in [] if ended else self.firsts:
            study.enqueue_trial(first)
        return [self.suggest(study.ask()) for _ in range(count)]

    def _study(self, ended: Sequence[Told], seed: int) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        drawn = (seed * 1_000_003 + len(ended)) % 2**32  # Optuna takes no greater seed
        sampler = optuna.samplers.TPESampler(n_startup_trials=TOGETHER, constant_liar=True, seed=drawn)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials([self._frozen(told) for told in ended])
        return study

    def _frozen(self, told: Told) -> FrozenTrial:
        state = TrialState.COMPLETE if told.whole else TrialState.PRUNED
        varied = {name: kind for name, kind in self.varied.items() if name in told.params}
        return optuna.trial.create_trial(
            state=state, params={name: told.params[name] for name in varied}, distributions=varied,
            value=told.score, intermediate_values={1: told.score},
        )  # fmt: skip


def suggested(trial: optuna.Trial, name: str, kind: BaseDistribution) -> Any:
    """A value of a trial's parameter, by Optuna's name for its kind."""
    match kind:
        case CategoricalDistribution():
            return trial.suggest_categorical(name, kind.choices)
        case FloatDistribution():
            return trial.suggest_float(name, kind.low, kind.high, log=kind.log)
        case IntDistribution():
            return trial.suggest_int(name, kind.low, kind.high, log=kind.log)
    raise TypeError(f"{name} is a {type(kind).__name__}; a search varies numbers and choices")
