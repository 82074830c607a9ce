"""Reads the columns that no role has as features: the kind of each, as the customer says or by its values, and why."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tilth.contract.vertical import Schema
from tilth.core.errors import Invalid
from tilth.datasets.columns import (
    LABEL_DISTINCT_SHARE,
    NEARLY_ALL,
    WORDS_OF_TEXT,
    Match,
    facts,
    hint,
    match_columns,
    plain,
    quoted,
)
from tilth.datasets.profile import Column

FEW = 20
"""So many different values are few, however long they are."""
LONG_CHARS = 20
LONG_DISTINCT_SHARE = 0.1
"""Long values are a category up to so many distinct ones for each row; short ones up to LABEL_DISTINCT_SHARE."""
ID_DISTINCT_SHARE = 0.9
"""Words of which more are distinct, for each row, tell rows apart and nothing else."""
ID_NAME = re.compile(r"(.*_)?id(_.*)?|index|line|nr|row|unnamed.*")
"""A plain name: id, row_id, sk_id_curr, and what pandas calls the index that it wrote ("Unnamed: 0")."""
ID_CAMEL = re.compile(r".*[a-z]I[dD]")
MOSTLY = 0.5


class Kind(StrEnum):
    """How the values of a free column are read."""

    NUMBER = "number"
    CATEGORY = "category"
    DATE = "date"
    TEXT = "text"
    IGNORE = "ignore"


KINDS = [kind.value for kind in Kind]


@dataclass(frozen=True)
class Feature:
    """A free column, how it is read, and why so."""

    column: str
    kind: Kind
    reason: str

    @property
    def used(self) -> bool:
        """Whether anything is learned from it."""
        return self.kind is not Kind.IGNORE


def match_all(
    schema: Schema, columns: Sequence[Column], said: Mapping[str, str] | None, kinds: Mapping[str, str] | None
) -> tuple[list[Match], list[Feature]]:
    """The columns of the roles, and all others as features if the schema takes them; raises Invalid for what is said.

    A column of ``kinds`` is a feature even if its name or values would do for a role.
    """
    said, kinds = said or {}, kinds or {}
    _refuse_kinds(schema, [column.name for column in columns], said, kinds)
    matches = match_columns(schema, columns, said, kept=kinds)
    if schema.free_columns is None:
        return matches, []
    taken = {match.column for match in matches}
    return matches, [_feature(column, kinds.get(column.name)) for column in columns if column.name not in taken]


def used_kinds(features: Sequence[Feature]) -> dict[str, str]:
    """Column → kind of those that are learned from."""
    return {feature.column: feature.kind.value for feature in features if feature.used}


def lacks_features(schema: Schema, features: Sequence[Feature], names: Collection[str]) -> bool:
    """Whether a schema needs features and none of these is among the columns."""
    rest = schema.free_columns
    return rest is not None and rest.required and not set(used_kinds(features)) & set(names)


def refuse_featureless(schema: Schema, features: Sequence[Feature], names: Sequence[str], file: str) -> None:
    """Raises Invalid for a file without any column to learn from, if the schema needs one; says why there is none."""
    if not lacks_features(schema, features, names):
        return
    if learned := used_kinds(features):
        raise Invalid(
            f"{file}: none of the columns that are learned from is there, which are {quoted(list(learned))}; the "
            f"columns are {quoted(names)}. Name them as the training file does.",
            code="missing_role",
        )
    rest = schema.free_columns
    role = f"{rest.role!r} ({rest.title})" if rest else ""
    left = "; ".join(f"{feature.column!r} is left out: {feature.reason}" for feature in features[:FEW])
    column = features[0].column if features else "amount"
    raise Invalid(
        f"{file}: no column to learn from was found for the role {role}; {left or 'every column has another role'}. "
        f'Add columns, or say how one is to be read, e.g. kinds={{"{column}": "category"}}.',
        param="kinds",
        code="missing_role",
    )


def unknown_kind(kind: object) -> str:
    """What to say of a kind that is none."""
    return f"There is no kind {kind!r}; a column is read as {', '.join(KINDS)}.{hint(str(kind), KINDS)}"


def _refuse_kinds(schema: Schema, names: Sequence[str], said: Mapping[str, str], kinds: Mapping[str, str]) -> None:
    if kinds and schema.free_columns is None:
        roles = ", ".join(field.role for field in schema.fields)
        raise Invalid(
            f"kinds says how columns without a role are read, but this vertical reads only the roles {roles}; leave "
            "it out.",
            param="kinds",
            code="no_free_columns",
        )
    roles_of = {column: role for role, column in said.items()}
    for column, kind in kinds.items():
        if column not in names:
            message = f"kinds names {column!r}, but the columns are {quoted(names)}.{hint(column, names)}"
            raise Invalid(message, param="kinds", code="unknown_column")
        if kind not in KINDS:
            raise Invalid(f"kinds[{column!r}]: {unknown_kind(kind)}", param="kinds", code="unknown_kind")
        if role := roles_of.get(column):
            message = f"columns names {column!r} for {role!r}, and kinds has it too; a column with a role has no kind."
            raise Invalid(message, param="kinds", code="two_roles")


def _feature(column: Column, said: str | None) -> Feature:
    if said is not None:
        return Feature(column.name, Kind(said), "named by you")
    kind, reason = _inferred(column)
    return Feature(column.name, kind, reason)


def _inferred(column: Column) -> tuple[Kind, str]:
    if not column.filled:
        return Kind.IGNORE, "no row has a plain value"
    if column.distinct == 1 and column.filled == column.rows:
        return Kind.IGNORE, "every row has the same value"
    if column.dates >= column.filled * NEARLY_ALL:
        return Kind.DATE, _nearly(column.dates, column.filled, "dates")
    if column.numbers >= column.filled * NEARLY_ALL:
        return _number(column)
    kind, reason = _words(column)
    return kind, reason + _stained(column)


def _number(column: Column) -> tuple[Kind, str]:
    if column.distinct == column.filled and (column.steady or _named_as_id(column.name)):
        return Kind.IGNORE, "no value twice: an id"
    return Kind.NUMBER, _nearly(column.numbers, column.filled, "numbers")


def _words(column: Column) -> tuple[Kind, str]:
    if _few(column):
        return Kind.CATEGORY, f"few values that repeat ({facts(column)})"
    if column.mean_words >= WORDS_OF_TEXT or (column.mean_chars >= LONG_CHARS and column.mean_words >= 2):
        return Kind.TEXT, f"texts of several words ({facts(column)})"
    if column.distinct == column.filled:
        return Kind.IGNORE, "no value twice: an id"
    if column.distinct_share > ID_DISTINCT_SHARE:
        return Kind.IGNORE, f"hardly a value twice: an id ({facts(column)})"
    return Kind.CATEGORY, f"values that repeat ({facts(column)})"


def _few(column: Column) -> bool:
    share = LONG_DISTINCT_SHARE if column.mean_chars >= LONG_CHARS else LABEL_DISTINCT_SHARE
    repeats = column.distinct < column.filled and column.distinct <= max(2.0, column.filled * LABEL_DISTINCT_SHARE)
    return repeats and column.distinct <= max(FEW, column.filled * share)


def _named_as_id(name: str) -> bool:
    return bool(ID_NAME.fullmatch(plain(name)) or ID_CAMEL.fullmatch(name.strip()))


def _nearly(found: int, filled: int, what: str) -> str:
    return f"{what} only" if found == filled else f"nearly all are {what} ({found:,} of {filled:,})"


def _stained(column: Column) -> str:
    """How a column of numbers with words like "NA" among them becomes one of numbers."""
    if column.numbers < column.filled * MOSTLY:
        return ""
    return f"; {column.numbers:,} of {column.filled:,} are numbers: leave the other cells empty to have it read so"
