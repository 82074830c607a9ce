"""The candidate that searches: Optuna asks for trials, successive halving stops the hopeless, the best is kept."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Self

from tilth.contract.learning import Method, Rung

from inference.adapters.folder import CONFIG, read_json
from inference.engine.adapting.anew import learned_anew
from inference.engine.adapting.climb import Adapted, adapted, probed, reopened, work_of
from inference.engine.adapting.methods import WEIGHTS, learned_on
from inference.engine.adapting.recipe import RANK
from inference.engine.candidate import Lesson, Outcome, Session
from inference.engine.encoder import TextEncoder
from inference.engine.memory import need
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
        """What varies."""
        own = self.encoders[0]
        return Space.of(own.options, own.recipe, [encoder.base.id for encoder in self.encoders])

    @property
    def rung(self) -> Rung:
        """Of the dearest method in the space."""
        return self.space.rung

    def size(self) -> str:
        """Rows, tokens, outputs."""
        return self.encoders[0].size()

    def need(self, tests: int) -> int:
        """By the shapes of the largest trials, as if all were of that base and method."""
        own = self.encoders[0].recipe
        recipe = replace(own, rank=RANK, layers=max(LAYERS, own.layers))
        kinds = product(self.encoders, self.space.methods)
        works = [work_of(encoder, method, recipe, tests, self.rows_at_once) for encoder, method in kinds]
        together = min(TOGETHER, self.trials)
        return max(need(replace(work, batch=self.rows_at_once, trials=together)).peak for work in works)

    def smaller(self) -> Self | None:
        """Half the rows at once; None at one."""
        return None if self.rows_at_once == 1 else replace(self, rows_at_once=(self.rows_at_once + 1) // 2)

    def passes(self) -> float:
        """Three for each row's view and step that is expected, one for each judged."""
        own = self.encoders[0]
        learned = 3.0 * own.recipe.views * len(own.train)
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
        """Three for each row's view and epoch of one trial."""
        own = self.encoders[0]
        return 3.0 * own.recipe.views * own.recipe.epochs * own.rows

    def relearned(self, session: Session, outcome: Outcome, lesson: Lesson) -> Adapted:
        """By the best trial's parameters, as far down its schedule as it was best."""
        line, space = outcome.facts, self.space
        params = {name: line[name] for name in space.varied if name in line}
        at = space.bases.index(space.base(params))
        encoder, method, recipe = self.encoders[at], space.method(params), space.recipe(params)
        learned = learned_anew(
            replace(encoder, lesson=lesson), method, recipe, probed(session, probe_name(at)),
            share=line["steps"] / line["of_steps"], rows_at_once=self.rows_at_once, session=session,
        )  # fmt: skip
        return adapted(encoder, method, recipe, learned)

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
