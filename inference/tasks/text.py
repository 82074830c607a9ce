"""Texts: one text, or a pair of them, read by an encoder; the target is one label, several labels, or a number."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from tilth.contract.errors import ContractError, VerticalError
from tilth.contract.learning import Method
from tilth.contract.messages import Prediction, Row, TrainingOptions
from tilth.contract.vertical import FieldKind, Vertical
from torch import Tensor

from inference.engine.adapting.climb import Adapt
from inference.engine.adapting.served import whole_encoder
from inference.engine.base_models import Base
from inference.engine.baselines import tfidf_svm
from inference.engine.candidate import Candidate, Lesson
from inference.engine.encoder import Encode, TextEncoder
from inference.engine.memory import tfidf
from inference.engine.objectives.objective import Objective
from inference.engine.objectives.single_label import SingleLabel
from inference.engine.probe import Probe
from inference.engine.search.best import BestTrial
from inference.engine.search.candidate import Search
from inference.engine.search.sampler import TOGETHER
from inference.engine.task import Encodes, Features, Whole
from inference.tasks.targets import Target

MAX_TOKENS = 128
MOST_CROSSED = 4_000_000
"""Outputs of all training rows: up to which the probe is cross-fitted (banking77: 0.7 million, 4 s)."""


class Text:
    """One or two roles of kind text, and a target; rows beyond MAX_TOKENS tokens are cut."""

    def __init__(self, face: Vertical) -> None:
        self._texts = [field.role for field in face.schema_.fields if field.kind is FieldKind.TEXT]
        if not 1 <= len(self._texts) <= 2:
            raise VerticalError(f"{face.name}: a task of texts needs one or two roles of kind text, not {self._texts}")
        self._target = Target.of_face(face)

    def features(self, rows: Sequence[Row], kinds: Mapping[str, str]) -> Features:
        """The target's labels or scale; raises JobFault if there is nothing to tell apart."""
        return {**self._target.features(rows), "max_length": MAX_TOKENS, "pooling": "mean", "normalize": True}

    def objective(self, features: Features) -> Objective:
        """By the target."""
        return self._target.objective(features)

    def targets(self, rows: Sequence[Row], features: Features) -> Tensor:
        """[rows]."""
        return self._target.of(rows, features)

    def encode(self, rows: Sequence[Row], features: Features, base: Base) -> list[list[int]]:
        """Token ids, no more than the base reads; of a pair with the base's separator between them."""
        if not rows:
            return []
        texts = [[_text(row, role) for row in rows] for role in self._texts]
        most = min(int(str(features["max_length"])), base.longest)
        return base.encode(texts[0], most, texts[1] if len(texts) > 1 else None)

    def candidates(
        self, lesson: Lesson, features: Features, bases: Sequence[Base], options: TrainingOptions
    ) -> list[Candidate]:
        """A probe on the frozen base, then LoRA."""
        names = self._names(features)
        encoders = [TextEncoder(base, lesson, encoding(self, features, base), options, names) for base in bases]
        return encoder_path(encoders, crossed=len(lesson.train) * lesson.objective.width <= MOST_CROSSED)

    def reopen(self, kind: str, files: Mapping[str, bytes], features: Features, base: Callable[[], Base]) -> Whole:
        """An encoder that a method has changed."""
        return whole_encoder(Method(kind), files, base, partial(encoding, self, features))

    def answer(self, outputs: Tensor, features: Features) -> list[Prediction]:
        """By the target."""
        return self.objective(features).answer(outputs, features)

    def baseline_bytes(self, rows: Sequence[Row]) -> int:
        """Of TF-IDF with a linear SVM."""
        labels = len({str(row.get(self._target.role)) for row in rows})
        return tfidf(sum(len(self._joined(row)) for row in rows), labels)

    def baseline(self, lesson: Lesson, rows: Sequence[Row], targets: Tensor) -> dict[str, float]:
        """Accuracy of TF-IDF with a linear SVM; nothing for a target that is no label."""
        objective = lesson.objective
        if not isinstance(objective, SingleLabel) or objective.selects != "accuracy":
            return {}
        texts, tests = ([self._joined(row) for row in each] for each in (lesson.train, rows))
        return {"tfidf_svm": tfidf_svm(texts, lesson.train_targets.tolist(), tests, targets.tolist())}

    def _names(self, features: Features) -> dict[int, Row]:
        """What labels are called, as rows; of pairs none, since a name is no pair."""
        if len(self._texts) > 1:
            return {}
        return {at: {self._texts[0]: name} for at, name in self._target.names(features).items()}

    def _joined(self, row: Row) -> str:
        return " ".join(str(row[role]) for role in self._texts)


def _text(row: Row, role: str) -> str:
    if role not in row:
        raise ContractError(f"an input has no {role!r}; it has {', '.join(sorted(row)) or 'nothing'}")
    return str(row[role])


def encoding(task: Encodes, features: Features, base: Base) -> Encode:
    """How the task's rows become a base's tokens."""
    return lambda rows: task.encode(rows, features, base)


def encoder_path(encoders: Sequence[TextEncoder], *, crossed: bool = False) -> list[Candidate]:
    """What encoders of texts can do, cheapest first; ``crossed`` where others are cross-fitted, too.

    The first is the job's own base; a search tries all.
    """
    own = encoders[0]
    options, recipe = own.options, own.recipe
    probes = [Probe.of(encoder, number, crossed=crossed) for number, encoder in enumerate(encoders)]
    if options.method is Method.PROBE:
        return [*probes]
    if options.trials:
        search = Search(tuple(encoders), options.trials, rows_at_once=recipe.batch_size * TOGETHER)
        return [*probes, search, *([BestTrial(search, recipe.batch_size)] if recipe.views > 1 else [])]
    methods = (Method.LORA, Method.FULL) if options.method is None else (options.method,)
    return [probes[0], *(Adapt(own, method, recipe, recipe.batch_size) for method in methods)]
