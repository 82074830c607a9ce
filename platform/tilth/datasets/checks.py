"""Checks one row against the roles of a schema: what the cells become, or what is wrong with them."""

import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, time
from hashlib import blake2b

import orjson

from tilth.contract.vertical import FieldKind, Schema, SchemaField
from tilth.datasets.columns import SPLIT, SPLIT_VALUES, Match
from tilth.datasets.features import Feature, Kind
from tilth.datasets.profile import date, number
from tilth.datasets.reading import Cell, Record
from tilth.datasets.report import Problem, shown
from tilth.datasets.several import Listed, labels_in

LABEL_CHARS = 200
MIDNIGHT = time()
BOOLEANS = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false"}
"""Spelling in CSV, where pandas or a spreadsheet wrote it → in JSON and Parquet."""

Features = dict[str, str | None]
"""Column → text of the cell."""
Value = str | float | Features | None
Row = dict[str, Value]


class Fault(Exception):
    """A cell that cannot be used: kind, message, cure."""

    def __init__(self, kind: str, message: str, cure: str) -> None:
        super().__init__(message)
        self.kind, self.message, self.cure = kind, message, cure


class RowCheck:
    """The checks of one file under one mapping."""

    def __init__(
        self, schema: Schema, columns: Sequence[str], matches: Sequence[Match], features: Sequence[Feature] = ()
    ) -> None:
        """A feature without a column here is None in every row."""
        self._fields = [
            (schema.field(match.role) if match.role != SPLIT else None, columns.index(match.column), match)
            for match in matches
        ]
        places = {column: index for index, column in enumerate(columns)}
        self._features = [(feature, places.get(feature.column)) for feature in features if feature.used]
        self._rest = schema.free_columns

    def __call__(self, record: Record) -> Row | Problem:
        """Role → value; ``split`` is train, validation, test or None, free columns are a dict under their role."""
        row: Row = {}
        for field, index, match in self._fields:
            cell = record.cells[index]
            try:
                row[match.role] = split_of(cell) if field is None else value_of(field, cell)
            except Fault as fault:
                return _problem(fault, record.line, match.column, cell)
        return self._with_features(record, row)

    def _with_features(self, record: Record, row: Row) -> Row | Problem:
        found: Features = {}
        for feature, index in self._features:
            cell = "" if index is None else record.cells[index]
            try:
                found[feature.column] = feature_of(feature.kind, cell)
            except Fault as fault:
                return _problem(fault, record.line, feature.column, cell)
        return {**row, self._rest.role: found} if self._rest and found else row


def value_of(field: SchemaField, cell: Cell) -> Value:
    """The value of a role; raises Fault."""
    if field.kind is FieldKind.LABELS:
        return _labels(field, cell)
    text = _text(cell)
    if not text:
        if not field.required:
            return None
        raise Fault(f"empty_{field.role}", f"the {field.title.lower()} is empty", "fill it in or remove the row")
    if field.choices and text not in field.choices:
        raise _no_choice(field, "this is")
    return _typed(field, text)


def feature_of(kind: Kind, cell: Cell) -> str | None:
    """The text of a free column's cell, None if it is empty; raises Fault."""
    text = _text(cell)
    match kind:
        case Kind.NUMBER if text:
            _number(text)
        case Kind.DATE if text:
            _refuse_no_date(text)
        case Kind.CATEGORY:
            return BOOLEANS.get(text, text) or None
    return text or None


def split_of(cell: Cell) -> str | None:
    """The split that a cell names; None if it is empty; raises Fault."""
    name = (cell or "").strip().lower()
    if name and name not in SPLIT_VALUES:
        raise Fault("unknown_split", "this names no split", "write train, validation or test, or leave it empty")
    return SPLIT_VALUES.get(name)


def key_of(row: Row, fields: Sequence[SchemaField], kinds: Mapping[str, str]) -> str:
    """Equal for rows that say the same: case, width of characters, white space, 1.0 for 1 and the like do not count.

    ``kinds`` says how free columns are read.
    """
    said = "\0".join(_said(row.get(field.role), field.kind, kinds) for field in fields)
    plain = " ".join((said if said.isascii() else unicodedata.normalize("NFKC", said)).split()).casefold()
    return blake2b(plain.encode(), digest_size=16).hexdigest()


def target_of(schema: Schema) -> SchemaField | None:
    """The role that is learned: the first required label, set of labels or number."""
    kinds = (FieldKind.LABEL, FieldKind.LABELS, FieldKind.NUMBER)
    return next((field for field in schema.fields if field.required and field.kind in kinds), None)


def _typed(field: SchemaField, text: str) -> Value:
    match field.kind:
        case FieldKind.NUMBER:
            return _number(text)
        case FieldKind.DATE:
            _refuse_no_date(text)
        case FieldKind.TIME:
            return _moment(text)
        case FieldKind.LABEL:
            _refuse_long(text)
    return text


def _labels(field: SchemaField, cell: Cell) -> str:
    """A JSON list, sorted; an empty cell holds none of the labels."""
    labels = None if cell is None else labels_in(cell)
    if labels is None:
        cure = 'write a list of texts, e.g. ["a", "b"], or a|b, or leave it empty for none'
        raise Fault("not_labels", "these are no labels", cure)
    for label in labels:
        if field.choices and label not in field.choices:
            raise _no_choice(field, f"{shown(label)} is")
        _refuse_long(label)
    return orjson.dumps(labels).decode()


def _no_choice(field: SchemaField, what: str) -> Fault:
    return Fault("unknown_choice", f"{what} none of the choices", f"write one of {', '.join(field.choices)}")


def _refuse_long(label: str) -> None:
    if len(label) > LABEL_CHARS:
        cure = "a label is a short name; is another column the label?"
        raise Fault("long_label", f"the label has more than {LABEL_CHARS} characters", cure)


def _text(cell: Cell) -> str:
    if cell is None or isinstance(cell, Listed):
        raise Fault("not_plain", "this is a list, an object or binary data", "write plain text or a number")
    return cell.strip()


def _number(text: str) -> float:
    value = number(text)
    if value is None:
        raise Fault("not_a_number", "this is no finite number", "write digits with a point, e.g. 1.5")
    return value


def _refuse_no_date(text: str) -> datetime:
    if (found := date(text)) is None:
        raise Fault("not_a_date", "this is no date", "write it as 2026-12-31 or 2026-12-31T23:59:59")
    return found


def _moment(text: str) -> str:
    """UTC, as short as it can be said: equal times are equal texts, and later ones sort behind."""
    found = _refuse_no_date(text)
    try:
        plain = found.astimezone(UTC).replace(tzinfo=None) if found.tzinfo else found
    except OverflowError:
        raise Fault("not_a_date", "this is no date of the calendar", "write a year from 1 to 9999") from None
    return plain.date().isoformat() if plain.time() == MIDNIGHT else plain.isoformat()


def _said(value: Value, kind: str, kinds: Mapping[str, str]) -> str:
    """Features in the order of their names, since files may have them in another order."""
    if not isinstance(value, dict):
        return _one_spelling(value, kind)
    return "\0".join(f"{column}\0{_one_spelling(text, kinds[column])}" for column, text in sorted(value.items()))


def _one_spelling(value: str | float | None, kind: str) -> str:
    """Of a value that was checked: 1, 1.0 and 1e0 are equal, and so are 2026-12-31 and 2026-12-31T00:00:00Z."""
    if value is None:
        return ""
    match kind:
        case Kind.NUMBER:
            return repr(float(value) + 0.0)  # -0.0 becomes 0.0
        case Kind.DATE:
            with suppress(Fault):  # a date of the years 1 or 9999 may have none in UTC
                return _moment(str(value))
    return str(value)


def _problem(fault: Fault, line: int, column: str, cell: Cell) -> Problem:
    value = shown(cell) if cell is None or cell.strip() else None
    return Problem(fault.kind, fault.message, fault.cure, line, column, value)
