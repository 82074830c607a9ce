"""What a search of an encoder may vary, and what of it a trial's base and method have a use for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from tilth.contract.learning import Method, Rung, Targets
from tilth.contract.messages import TrainingOptions

from inference.engine.adapting.recipe import RANK, Recipe
from inference.engine.ladder import HEIGHT
from inference.engine.search.sampler import Params, Sampler, Told, suggested

LAYERS = 3
"""At most learn where only the last ones do."""
BASE, METHOD = "base_model", "method"
"""What other parameters depend on, and is asked for before them."""
SEARCHED = (Method.LORA, Method.BITFIT, Method.LAST_LAYERS)
"""Methods that are tried where none is named, up to the highest rung that may be climbed; the first one first."""


@dataclass(frozen=True)
class Space:
    """Around a recipe; what the customer has fixed does not vary, what a method has no use for is not asked for it.

    Fixed is whatever is not the default: on its way here an option that was not said becomes it.
    """

    around: Recipe
    methods: tuple[Method, ...]
    bases: tuple[str, ...]
    """Ids of base models, the job's own first."""
    varied: dict[str, BaseDistribution]

    @classmethod
    def of(cls, options: TrainingOptions, around: Recipe, bases: Sequence[str] = ("",)) -> "Space":
        """Base model, method, learning rate, rank, targets, smoothing, epochs, batch size, layers."""
        methods = (options.method,) if options.method else _searched(options.top)
        size, epochs, unsaid = around.batch_size, around.epochs, TrainingOptions()
        wished: dict[str, tuple[bool, BaseDistribution]] = {
            BASE: (len(bases) > 1, CategoricalDistribution(bases)),
            METHOD: (len(methods) > 1, CategoricalDistribution([each.value for each in methods])),
            "rate": (options.learning_rate_multiplier is None, FloatDistribution(0.2, 5.0, log=True)),
            "rank": (options.rank is None, CategoricalDistribution([4, 8, RANK])),
            "targets": (options.targets == unsaid.targets, CategoricalDistribution([each.value for each in Targets])),
            "smoothing": (options.label_smoothing is None, CategoricalDistribution([0.0, 0.1])),
            "epochs": (options.epochs is None, CategoricalDistribution(sorted({epochs, max(1, epochs - 2)}))),
            "batch_size": (options.batch_size is None, CategoricalDistribution([size, 2 * size])),
            "layers": (options.layers == unsaid.layers, CategoricalDistribution(range(1, LAYERS + 1))),
        }
        unused = set.intersection(*map(_unused, methods))
        varied = {name: kind for name, (free, kind) in wished.items() if free and name not in unused}
        return cls(around, methods, tuple(bases), varied)

    @property
    def rung(self) -> Rung:
        """Of the dearest method."""
        return max((method.rung for method in self.methods), key=HEIGHT.__getitem__)

    def method(self, params: Params) -> Method:
        """The method of a trial."""
        return Method(params.get(METHOD, self.methods[0]))

    def base(self, params: Params) -> str:
        """The base model of a trial."""
        return str(params.get(BASE, self.bases[0]))

    def recipe(self, params: Params) -> Recipe:
        """The recipe of a trial."""
        own = {name: value for name, value in params.items() if name not in (BASE, METHOD)}
        if "targets" in own:
            own["targets"] = Targets(own["targets"])
        return replace(self.around, **own)

    def firsts(self) -> list[Params]:
        """On each base the recipe that is taken without a search; those are the first trials of every one."""
        facts = {name: getattr(self.around, name) for name in self.varied if name not in (BASE, METHOD)}
        usual = {name: value.value if isinstance(value, Targets) else value for name, value in facts.items()}
        return [self._used({BASE: base, METHOD: self.methods[0].value, **usual}) for base in self.bases]

    def ask(self, ended: Sequence[Told], count: int, seed: int) -> list[Params]:
        """So many more, by what is known of those before; the same for the same history."""
        return Sampler(self.varied, self.firsts(), self._suggested).ask(ended, count, seed)

    def _suggested(self, trial: optuna.Trial) -> Params:
        """One parameter after another, each only where those before leave it a meaning."""
        found: Params = {}
        for name, kind in self.varied.items():
            if name not in _unused(self.method(found)):
                found[name] = suggested(trial, name, kind)
        return found

    def _used(self, params: Params) -> Params:
        unused = _unused(self.method(params))
        return {name: value for name, value in params.items() if name in self.varied and name not in unused}


def _searched(top: Rung) -> tuple[Method, ...]:
    return tuple(each for each in SEARCHED if HEIGHT[each.rung] <= HEIGHT[top]) or SEARCHED[:1]


def _unused(method: Method) -> set[str]:
    """What does not matter to a method."""
    low_rank, layers = {"rank", "targets"}, {"layers"}
    match method:
        case Method.LORA | Method.DORA:
            return layers
        case Method.LAST_LAYERS:
            return low_rank
    return low_rank | layers
