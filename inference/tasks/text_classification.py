"""Text classification: one text, one label of a fixed set, or none of them."""

import torch
from tilth.contract.errors import VerticalError
from tilth.contract.messages import Prediction, Row
from tilth.contract.vertical import FieldKind, Schema
from torch import Tensor

from inference.engine.base_models import Base
from inference.engine.calibrate import SCORES
from inference.engine.errors import JobFault
from inference.engine.task import Examples, Features

MAX_TOKENS = 128
UNKNOWN = -1


class TextClassification:
    """One text role, one label role; labels that mean "none of these" are never a class."""

    def __init__(self, schema: Schema) -> None:
        self._text = _role(schema, FieldKind.TEXT)
        self._label = _role(schema, FieldKind.LABEL)
        self._out_of_scope = frozenset(schema.out_of_scope_labels)

    def features(self, rows: list[Row]) -> Features:
        """The label set, sorted; raises JobFault for fewer than two classes."""
        labels = sorted({str(row[self._label]) for row in rows} - self._out_of_scope)
        if len(labels) < 2:
            found = f"only the label {labels[0]!r}" if labels else "no label"
            raise JobFault("single_class", f"the training rows hold {found}; give rows of at least two labels")
        return {"labels": list(labels), "max_length": MAX_TOKENS, "pooling": "mean", "normalize": True}

    def encode(self, rows: list[Row], features: Features, base: Base) -> Examples:
        """Token ids, and the label's index (-1: out of scope, not asked, or not seen in training)."""
        index = {label: at for at, label in enumerate(_labels(features))}
        targets = torch.tensor([index.get(str(row.get(self._label)), UNKNOWN) for row in rows], dtype=torch.long)
        ids = base.encode(self.texts(rows), int(str(features["max_length"]))) if rows else []
        return Examples(ids, targets)

    def classes(self, features: Features) -> int:
        """One per label."""
        return len(_labels(features))

    def texts(self, rows: list[Row]) -> list[str]:
        """The text of each row."""
        return [str(row[self._text]) for row in rows]

    def label(self, row: Row) -> str | None:
        """The row's label, if it is a class."""
        label = str(row[self._label])
        return None if label in self._out_of_scope else label

    def answer(self, logits: Tensor, features: Features) -> list[Prediction]:
        """Label, calibrated probabilities and the out-of-scope flag of logits [rows, classes]."""
        labels = _labels(features)
        scaled = logits.double() / float(str(features.get("temperature", 1.0)))
        inside = SCORES[str(features.get("scope_score", "probability"))](scaled)
        outside = inside < float(str(features.get("scope_threshold", "-inf")))
        return [
            Prediction(
                output=labels[max(range(len(labels)), key=row.__getitem__)],
                score=max(row),
                probabilities=dict(zip(labels, row, strict=True)),
                out_of_scope=out,
            )
            for row, out in zip(scaled.softmax(1).tolist(), outside.tolist(), strict=True)
        ]


def _role(schema: Schema, kind: FieldKind) -> str:
    """The first role of a kind; a face without one is a bug of its author."""
    for field in schema.fields:
        if field.kind is kind:
            return field.role
    raise VerticalError(f"text classification needs a role of kind {kind.value!r}; the schema has none")


def _labels(features: Features) -> list[str]:
    labels = features["labels"]
    if not isinstance(labels, list):
        raise JobFault("features_unreadable", f"labels is a {type(labels).__name__}; expected a list")
    return [str(label) for label in labels]
