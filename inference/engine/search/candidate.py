"""The candidate that searches: Optuna asks for trials, successive halving stops the hopeless, the best is kept."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from tilth.contract.learning import Method, Rung

from inference.adapters.folder import CONFIG, read_json
from inference.engine.adapting.climb import Adapted, reopened, work_of
from inference.engine.adapting.methods import WEIGHTS
from inference.engine.adapting.recipe import RANK
from inference.engine.candidate import Outcome, Session
from inference.engine.encoder import TextEncoder
from inference.engine.memory import need
from inference.engine.search.hunt import Hunt
from inference.engine.search.space import TOGETHER, Space

SHARE = 0.3
"""Of whole runs that the trials of a search take together, judged from above."""


@dataclass(frozen=True)
class Search:
    """``rows_at_once``: of all trials that step together."""

    encoder: TextEncoder
    trials: int
    rows_at_once: int
    name: str = "search"
    title: str = "the search"

    @property
    def space(self) -> Space:
        """What varies."""
        return Space.of(self.encoder.options, self.encoder.recipe)

    @property
    def rung(self) -> Rung:
        """Of the dearest method in the space."""
        return self.space.method.rung

    def size(self) -> str:
        """Rows, tokens, outputs."""
        return self.encoder.size()

    def need(self, tests: int) -> int:
        """By the shapes of the largest trials."""
        recipe = replace(self.encoder.recipe, rank=RANK)
        work = work_of(self.encoder, self.space.method, recipe, tests, self.rows_at_once)
        return need(replace(work, batch=self.rows_at_once, trials=min(TOGETHER, self.trials))).peak

    def smaller(self) -> Self | None:
        """Half the rows at once; None at one."""
        return None if self.rows_at_once == 1 else replace(self, rows_at_once=(self.rows_at_once + 1) // 2)

    def passes(self) -> float:
        """Three for each row and step that is expected, one for each judged."""
        rows, judged = len(self.encoder.train), len(self.encoder.validation)
        return SHARE * self.trials * self.encoder.recipe.epochs * (3.0 * rows + judged)

    def learn(self, session: Session) -> Outcome | None:
        """None if no trial was judged within the budget."""
        found = Hunt(self.encoder, self.space, self.trials, self.rows_at_once, session).best()
        if found is None:
            return None
        facts = {**found.facts, "trials": found.board}
        return Outcome(self.name, self.rung, found.model, found.valid, None, found.tokens, facts)

    def reopen(self, files: Mapping[str, bytes]) -> Adapted:
        """From the files of the best trial."""
        return reopened(self.encoder, method_of(files), files)


def method_of(files: Mapping[str, bytes]) -> Method:
    """The method that left such files."""
    if WEIGHTS in files:
        return Method.FULL  # any that changes parameters is read alike
    config = read_json(files, CONFIG)
    if config["peft_type"] == "IA3":
        return Method.IA3
    return Method.DORA if config.get("use_dora") else Method.LORA
