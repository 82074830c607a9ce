"""Tables with free columns: learners of a table, their blend, and a text encoder that reads rows as sentences."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial

from tilth.contract.errors import VerticalError
from tilth.contract.learning import Method
from tilth.contract.messages import Prediction, Row, TrainingOptions
from tilth.contract.vertical import Vertical
from torch import Tensor

from inference.engine.adapting.served import whole_encoder
from inference.engine.base_models import Base
from inference.engine.candidate import Candidate, Lesson
from inference.engine.encoder import TextEncoder
from inference.engine.errors import JobFault
from inference.engine.objectives.objective import Objective
from inference.engine.spill import mapped
from inference.engine.task import Features, Whole
from inference.tabular.blend import Blend
from inference.tabular.boosted import Boosted
from inference.tabular.columns import Cells, Columns, InputRefused
from inference.tabular.forest import Forest
from inference.tabular.learner import Learner, TableCandidate, WholeTable
from inference.tabular.linear import Linear
from inference.tabular.network import Networks
from inference.tabular.scorecard import Scorecard
from inference.tabular.table import TableLesson
from inference.tabular.tuned import tuned
from inference.tasks.targets import Target
from inference.tasks.text import encoder_path, encoding

MAX_TOKENS = 256
PARTS: tuple[Learner, ...] = (Linear(), Scorecard(), Forest(), Boosted(), Networks())
LEARNERS: dict[str, Learner] = {each.name: each for each in (*PARTS, Blend(PARTS))}
"""In the order in which they learn."""


class Tabular:
    """One role of kind columns, and a target."""

    def __init__(self, face: Vertical) -> None:
        if face.schema_.free_columns is None:
            raise VerticalError(f"{face.name}: a task of tables needs a role of kind columns; the schema has none")
        self._role = face.schema_.free_columns.role
        self._target = Target.of_face(face)

    def features(self, rows: Sequence[Row], kinds: Mapping[str, str]) -> Features:
        """The target's labels or scale, and every column's; raises JobFault without a column."""
        if not kinds:
            raise JobFault("no_columns", "the frozen dataset has no column to learn from; give at least one")
        columns = Columns.of(mapped(rows, self.cells), kinds)
        return {**self._target.features(rows), "columns": columns.facts(), "max_length": MAX_TOKENS,
                "pooling": "mean", "normalize": True}  # fmt: skip

    def objective(self, features: Features) -> Objective:
        """By the target."""
        return self._target.objective(features)

    def targets(self, rows: Sequence[Row], features: Features) -> Tensor:
        """[rows]."""
        return self._target.of(rows, features)

    def cells(self, row: Row) -> Cells:
        """A row's columns: as the frozen version packs them, or, in a request, by their names."""
        found = row.get(self._role, row)
        if isinstance(found, str):
            found = json.loads(found)
        if not isinstance(found, dict):
            raise InputRefused(f"{self._role!r} holds a {type(found).__name__}; send an object, column → value")
        return found

    def candidates(
        self, lesson: Lesson, features: Features, bases: Sequence[Base], options: TrainingOptions
    ) -> list[Candidate]:
        """Every learner, searched where trials are asked for, then the encoder on rows as sentences."""
        table = TableLesson(lesson, Columns.saved(features["columns"]), self.cells)
        if options.consistency is None:  # of words a row can lack some, of cells hardly
            options = options.model_copy(update={"consistency": 0.0})
        encoders = [TextEncoder(base, lesson, encoding(self, features, base), options) for base in bases]
        learners = [tuned(learner, options.trials) for learner in LEARNERS.values()]
        says = bool(table.columns.measured or table.columns.chosen)  # more than texts, which only an encoder reads
        suited = [learner for learner in learners if says and learner.suits(lesson.objective)]
        return [*(TableCandidate(table, learner) for learner in suited), *encoder_path(encoders, crossed=True)]

    def encode(self, rows: Sequence[Row], features: Features, base: Base) -> list[list[int]]:
        """Token ids of each row as a sentence."""
        columns = _columns(json.dumps(features["columns"]))
        cells = [self.cells(row) for row in rows]
        columns.numbers(cells)  # a number that is none is refused, whatever reads the row
        sentences = [columns.sentence(row) for row in cells]
        return base.encode(sentences, min(int(str(features["max_length"])), base.longest)) if sentences else []

    def reopen(self, kind: str, files: Mapping[str, bytes], features: Features, base: Callable[[], Base]) -> Whole:
        """The model of a learner, or an encoder that a method has changed."""
        if kind not in LEARNERS:
            return whole_encoder(Method(kind), files, base, partial(encoding, self, features))
        width = self.objective(features).width
        model = LEARNERS[kind].reopen(Columns.saved(features["columns"]), width, files)
        return WholeTable(model, self.cells, sum(map(len, files.values())))

    def answer(self, outputs: Tensor, features: Features) -> list[Prediction]:
        """By the target."""
        return self.objective(features).answer(outputs, features)


@lru_cache(64)
def _columns(facts: str) -> Columns:
    return Columns.saved(json.loads(facts))
