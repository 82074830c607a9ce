"""The target of a schema: a label that must be one of those seen in training, or a number."""

from tilth.contract.errors import VerticalError
from tilth.contract.messages import Row
from tilth.contract.vertical import FieldKind, SchemaField, Vertical
from torch import Tensor, float64, tensor

from inference.engine.errors import JobFault
from inference.engine.objectives.number import Number
from inference.engine.objectives.objective import Objective
from inference.engine.objectives.single_label import SingleLabel
from inference.engine.task import Features


class Target:
    """The first required role of kind label or number; labels that mean "none of these" are never a class."""

    def __init__(self, face: Vertical) -> None:
        self._field = _target(face)
        self._out_of_scope = frozenset(face.schema_.out_of_scope_labels)
        self._selects = face.metrics[0].name

    def features(self, rows: list[Row]) -> Features:
        """The label set, sorted, or the numbers' scale; raises JobFault where nothing differs."""
        if self._field.kind is FieldKind.NUMBER:
            scale = Number.of([number for row in rows if (number := self._number(row)) is not None])
            return {"mean": scale.mean, "deviation": scale.deviation}
        labels = sorted({value for row in rows if (value := self.value(row)) is not None})
        if len(labels) < 2:
            found = f"only the label {labels[0]!r}" if labels else "no label"
            raise JobFault("single_class", f"the training rows hold {found}; give rows of at least two labels")
        return {"labels": list(labels)}

    def objective(self, features: Features) -> Objective:
        """What is learned; the face's first metric chooses."""
        if self._field.kind is FieldKind.NUMBER:
            return Number(float(str(features["mean"])), float(str(features["deviation"])))
        return SingleLabel(_labels(features), self._selects)

    def of(self, rows: list[Row], features: Features) -> Tensor:
        """[rows]: class numbers (-1: out of scope, not asked, or not seen in training), or numbers (NaN: none)."""
        if self._field.kind is FieldKind.NUMBER:
            return tensor([float("nan") if (n := self._number(row)) is None else n for row in rows], dtype=float64)
        return SingleLabel(_labels(features), self._selects).targets([str(row.get(self._field.role)) for row in rows])

    def value(self, row: Row) -> str | None:
        """The row's label; None if it is out of scope or has none."""
        found = row.get(self._field.role)
        return None if found is None or str(found) in self._out_of_scope else str(found)

    def _number(self, row: Row) -> float | None:
        found = row.get(self._field.role)
        return None if found is None else float(str(found))


def _target(face: Vertical) -> SchemaField:
    """A face without one is a bug of its author."""
    kinds = (FieldKind.LABEL, FieldKind.NUMBER)
    for field in face.schema_.fields:
        if field.required and field.kind in kinds:
            return field
    raise VerticalError(f"{face.name}: the schema has no required role of kind label or number to be learned")


def _labels(features: Features) -> tuple[str, ...]:
    labels = features["labels"]
    if not isinstance(labels, list):
        raise JobFault("features_unreadable", f"labels is a {type(labels).__name__}; expected a list")
    return tuple(str(label) for label in labels)
