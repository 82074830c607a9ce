"""The candidate that searches: Optuna asks for trials, successive halving stops the hopeless, the best is kept."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Self

from tilth.contract.learning import Method, Rung

from inference.adapters.folder import CONFIG, read_json
from inference.engine.adapting.climb import Adapt, Adapted, probed, reopened, work_of
from inference.engine.adapting.methods import WEIGHTS, learned_on
from inference.engine.adapting.recipe import RANK, Recipe
from inference.engine.candidate import Lesson, Outcome, Session
from inference.engine.encoder import TextEncoder
from inference.engine.memory import Work, need
from inference.engine.probe import probe_name
from inference.engine.search.ground import Ground
from inference.engine.search.hunt import Hunt
from inference.engine.search.sampler import TOGETHER
from inference.engine.search.space import LAYERS, Space

SHARE = 0.3
"""Of whole runs that the trials of a search take together, judged from above."""


@dataclass(frozen=True)
class Search:
    """``encoders``: of one lesson, on each base a trial may have, the job's own first; ``rows_at_once``: of all trials
    that step together.
    """

    encoders: tuple[TextEncoder, ...]
    trials: int
    rows_at_once: int
    name: str = "search"
    title: str = "the search"

    @property
    def space(self) -> Space:
        """What varies, around the usual recipe with each row seen once: trials only have to be told apart."""
        own = self.encoders[0]
        around = replace(own.recipe, consistency=0.0)
        return Space.of(own.options, around, [encoder.base.id for encoder in self.encoders])

    @property
    def rung(self) -> Rung:
        """Of the dearest method in the space."""
        return self.space.rung

    def size(self) -> str:
        """Rows, tokens, outputs."""
        return self.encoders[0].size()

    def need(self, tests: int) -> int:
        """By the shapes of the largest trials, as if all were of that base and method."""
        together = min(TOGETHER, self.trials)
        works = self.works(self.space.around, tests, self.rows_at_once)
        return max(need(replace(work, batch=self.rows_at_once, trials=together)).peak for work in works)

    def works(self, recipe: Recipe, tests: int, batch: int) -> Iterator[Work]:
        """The largest shapes of each base and method."""
        largest = replace(recipe, rank=max(RANK, recipe.rank), layers=max(LAYERS, recipe.layers))
        for encoder, method in product(self.encoders, self.space.methods):
            yield work_of(encoder, method, largest, tests, batch)

    def smaller(self) -> Self | None:
        """Half the rows at once; None at one."""
        return None if self.rows_at_once == 1 else replace(self, rows_at_once=(self.rows_at_once + 1) // 2)

    def passes(self) -> float:
        """Three for each row and step that is expected, one for each judged."""
        own = self.encoders[0]
        learned = 3.0 * len(own.train)
        return SHARE * self.trials * own.recipe.epochs * (learned + len(own.validation))

    def learn(self, session: Session) -> Outcome | None:
        """None if no trial was judged within the budget."""
        heads = tuple(probed(session, probe_name(at)) for at in range(len(self.encoders)))
        ground = Ground(self.space, self.encoders, heads)
        found = Hunt(ground, self.trials, self.rows_at_once, session).best()
        if found is None:
            return None
        facts = {**found.facts, "trials": found.board}
        return Outcome(self.name, self.rung, found.model, found.valid, None, found.tokens, facts)

    def again(self) -> float:
        """Three for each row and epoch of one trial."""
        own = self.encoders[0]
        return 3.0 * own.recipe.epochs * own.rows

    def relearned(self, session: Session, outcome: Outcome, lesson: Lesson) -> Adapted:
        """By the best trial's parameters, as far down its schedule as it was best."""
        return self.best(outcome).anew(session, lesson, outcome.facts["steps"] / outcome.facts["of_steps"])

    def best(self, outcome: Outcome) -> Adapt:
        """Its best trial, as a candidate by itself."""
        space = self.space
        params = {name: outcome.facts[name] for name in space.varied if name in outcome.facts}
        at = space.bases.index(space.base(params))
        recipe = space.recipe(params)
        return Adapt(self.encoders[at], space.method(params), recipe, self.rows_at_once, probe_name(at))

    def reopen(self, files: Mapping[str, bytes]) -> Adapted:
        """From the files of the best trial."""
        base = base_of(files)
        encoder = next(encoder for encoder in self.encoders if encoder.base.id == base)
        return reopened(encoder, method_of(files), files)


def base_of(files: Mapping[str, bytes]) -> str:
    """The id of the base that such files were learned on."""
    if WEIGHTS in files:
        return learned_on(files[WEIGHTS])
    return str(read_json(files, CONFIG)["base_model_name_or_path"])


def method_of(files: Mapping[str, bytes]) -> Method:
    """The method that left such files."""
    if WEIGHTS in files:
        return Method.FULL  # any that changes parameters is read alike
    config = read_json(files, CONFIG)
    if config["peft_type"] == "IA3":
        return Method.IA3
    return Method.DORA if config.get("use_dora") else Method.LORA
