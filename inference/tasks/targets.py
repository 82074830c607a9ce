"""The target of a schema: one label of those seen in training, any number of them, or a number."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tilth.contract.errors import VerticalError
from tilth.contract.messages import Row
from tilth.contract.vertical import FieldKind, SchemaField, Vertical
from torch import Tensor, float64, tensor

from inference.engine.errors import JobFault
from inference.engine.objectives.multi_label import MultiLabel
from inference.engine.objectives.number import Number
from inference.engine.objectives.objective import Objective
from inference.engine.objectives.single_label import SingleLabel
from inference.engine.task import Features
from inference.tasks.naming import spoken


class Way(Protocol):
    """How rows of one kind of target are read."""

    def features(self, rows: Sequence[Row]) -> Features:
        """What training fixes; raises JobFault where nothing differs."""

    def objective(self, features: Features) -> Objective:
        """What is learned."""

    def of(self, rows: Sequence[Row], features: Features) -> Tensor:
        """Targets, rows first."""

    def names(self, features: Features) -> dict[int, str]:
        """By a class's number what its label says; nothing where a row is not of one class."""


@dataclass(frozen=True)
class Target:
    """The first required role of kind label, labels or number; labels that mean "none of these" are never a class."""

    role: str
    way: Way

    @classmethod
    def of_face(cls, face: Vertical) -> "Target":
        """The face's first metric chooses among models of labels; a face without a target is a bug of its author."""
        field = _field(face)
        outside, selects = frozenset(face.schema_.out_of_scope_labels), face.metrics[0].name
        match field.kind:
            case FieldKind.NUMBER:
                return cls(field.role, _Numbers(field.role))
            case FieldKind.LABELS:
                return cls(field.role, _Sets(field.role, outside, selects))
        return cls(field.role, _Labels(field.role, outside, selects))

    def features(self, rows: Sequence[Row]) -> Features:
        """The label set, sorted, or the numbers' scale; raises JobFault where nothing differs."""
        return self.way.features(rows)

    def objective(self, features: Features) -> Objective:
        """What is learned."""
        return self.way.objective(features)

    def of(self, rows: Sequence[Row], features: Features) -> Tensor:
        """Targets, rows first; unknown where a row has none, or a label that training has not."""
        return self.way.of(rows, features)

    def names(self, features: Features) -> dict[int, str]:
        """By a class's number what its label says; empty where a row is not of one class."""
        return self.way.names(features)


@dataclass(frozen=True)
class _Numbers:
    role: str

    def features(self, rows: Sequence[Row]) -> Features:
        scale = Number.of([number for row in rows if (number := self._number(row)) is not None])
        return {"mean": scale.mean, "deviation": scale.deviation}

    def objective(self, features: Features) -> Objective:
        return Number(float(str(features["mean"])), float(str(features["deviation"])))

    def of(self, rows: Sequence[Row], features: Features) -> Tensor:
        return tensor([float("nan") if (n := self._number(row)) is None else n for row in rows], dtype=float64)

    def names(self, features: Features) -> dict[int, str]:
        return {}

    def _number(self, row: Row) -> float | None:
        found = row.get(self.role)
        return None if found is None else float(str(found))


@dataclass(frozen=True)
class _Labels:
    role: str
    outside: frozenset[str]
    selects: str

    def features(self, rows: Sequence[Row]) -> Features:
        labels = sorted({label for row in rows if (label := self._label(row)) is not None})
        if len(labels) < 2:
            found = f"only the label {labels[0]!r}" if labels else "no label"
            raise JobFault("single_class", f"the training rows hold {found}; give rows of at least two labels")
        return {"labels": list(labels)}

    def objective(self, features: Features) -> SingleLabel:
        return SingleLabel(_labels(features), self.selects)

    def of(self, rows: Sequence[Row], features: Features) -> Tensor:
        return self.objective(features).targets(str(row.get(self.role)) for row in rows)

    def names(self, features: Features) -> dict[int, str]:
        return spoken(_labels(features))

    def _label(self, row: Row) -> str | None:
        found = row.get(self.role)
        return None if found is None or str(found) in self.outside else str(found)


@dataclass(frozen=True)
class _Sets:
    """A frozen row holds its labels as a JSON list."""

    role: str
    outside: frozenset[str]
    selects: str

    def features(self, rows: Sequence[Row]) -> Features:
        labels = sorted({label for row in rows for label in self._set(row) or ()})
        if not labels:
            raise JobFault("no_label", "no training row has a label; give rows of at least one")
        return {"labels": list(labels)}

    def objective(self, features: Features) -> MultiLabel:
        return MultiLabel(_labels(features), self.selects)

    def of(self, rows: Sequence[Row], features: Features) -> Tensor:
        return self.objective(features).targets(map(self._set, rows))

    def names(self, features: Features) -> dict[int, str]:
        return {}

    def _set(self, row: Row) -> list[str] | None:
        found = row.get(self.role)
        if found is None:
            return None
        labels = json.loads(found) if isinstance(found, str) else found
        if not isinstance(labels, list):
            raise JobFault("dataset_unreadable", f"{self.role!r} holds {found!r}; expected a list of labels")
        return [str(label) for label in labels if str(label) not in self.outside]


def _field(face: Vertical) -> SchemaField:
    kinds = (FieldKind.LABEL, FieldKind.LABELS, FieldKind.NUMBER)
    for field in face.schema_.fields:
        if field.required and field.kind in kinds:
            return field
    raise VerticalError(f"{face.name}: the schema has no required role of kind label, labels or number to be learned")


def _labels(features: Features) -> tuple[str, ...]:
    labels = features["labels"]
    if not isinstance(labels, list):
        raise JobFault("features_unreadable", f"labels is a {type(labels).__name__}; expected a list")
    return tuple(str(label) for label in labels)
