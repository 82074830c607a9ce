"""Maps columns to a vertical's roles: as the customer says, else by name, else by values; always with the reason."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from tilth.contract.vertical import FieldKind, Schema, SchemaField
from tilth.core.errors import Invalid
from tilth.datasets.profile import Column

SPLIT = "split"
SPLIT_NAMES = (SPLIT, "fold", "subset", "partition")
SPLIT_VALUES = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip
LABEL_DISTINCT_SHARE = 0.5
"""A column of labels repeats its values: at most this many distinct ones for each row."""
LABEL_MEAN_CHARS = 60
TEXT_MEAN_CHARS = 8
WORDS_OF_TEXT = 3
FEWEST_GROUPS = 10
"""Fewer values of a column tell rows apart by something else than whose they are."""
FEWEST_TIMES = 3
"""For training, validation and test to be of different times."""
NEARLY_ALL = 0.98


@dataclass(frozen=True)
class Match:
    """The column of a role, and why it is that one."""

    role: str
    column: str
    reason: str


def match_columns(
    schema: Schema, columns: Sequence[Column], said: Mapping[str, str] | None, kept: Collection[str] = ()
) -> list[Match]:
    """The column of every role that takes one; ``split`` is a role of every schema. Raises Invalid for a bad mapping.

    Columns that are ``kept`` get a role only if that is said.
    """
    matches = _said(schema, [column.name for column in columns], said or {})
    columns = [column for column in columns if column.name not in kept]
    for step in (_by_name, _by_values):
        for field in _single(schema):
            free = [column for column in columns if column.name not in {match.column for match in matches}]
            if field.role not in {match.role for match in matches} and (match := step(field, free)):
                matches.append(match)
    if SPLIT not in {match.role for match in matches}:
        matches += _split([column for column in columns if column.name not in {m.column for m in matches}])
    return matches


def missing(schema: Schema, matches: Sequence[Match]) -> list[SchemaField]:
    """Required roles without their one column."""
    found = {match.role for match in matches}
    return [field for field in _single(schema) if field.required and field.role not in found]


def refuse_missing(schema: Schema, matches: Sequence[Match], names: Sequence[str], file: str) -> None:
    """Raises Invalid naming the roles without a column, the columns there are, and what to say."""
    if lacking := missing(schema, matches):
        roles = ", ".join(f"{field.role!r} ({field.title})" for field in lacking)
        raise Invalid(
            f"{file}: no column was found for the role {roles}; the columns are {quoted(names)}. Say which it is, "
            f'e.g. columns={{"{lacking[0].role}": "{names[0]}"}}, or check that the first line names the columns.',
            param="columns",
            code="missing_role",
        )


def _said(schema: Schema, names: Sequence[str], said: Mapping[str, str]) -> list[Match]:
    roles = [*[field.role for field in _single(schema)], SPLIT]
    for role, name in said.items():
        if (rest := schema.free_columns) and role == rest.role:
            raise Invalid(
                f"columns[{role!r}] names one column, but {role!r} takes every column without another role. "
                f'Leave it out, and say with kinds how a column is read, e.g. kinds={{"{name}": "number"}}.',
                param="columns",
                code="takes_all_columns",
            )
        if role not in roles:
            raise Invalid(
                f"There is no role {role!r}; the roles are {', '.join(roles)}.", param="columns", code="unknown_role"
            )
        if name not in names:
            raise Invalid(
                f"columns[{role!r}] names {name!r}, but the columns are {quoted(names)}.{hint(name, names)}",
                param="columns",
                code="unknown_column",
            )
        if twice := [other for other, column in said.items() if column == name and other != role]:
            raise Invalid(
                f"columns names {name!r} for both {role!r} and {twice[0]!r}; a column has one role.", param="columns"
            )
    return [Match(role, name, "named by you") for role, name in said.items()]


def _by_name(field: SchemaField, free: Sequence[Column]) -> Match | None:
    for alias in (field.role, *field.aliases):
        for column in free:
            if plain(column.name) == plain(alias) and _would_do(field, column):
                return Match(field.role, column.name, f"the name {column.name!r} is usual for {field.title.lower()}")
    return None


def _would_do(field: SchemaField, column: Column) -> bool:
    """Whether a column may have a role for its name alone: what keeps rows apart must be what it is called."""
    match field.kind:
        case FieldKind.GROUP:
            short = column.mean_chars <= LABEL_MEAN_CHARS and column.mean_words < WORDS_OF_TEXT
            return short and column.distinct >= FEWEST_GROUPS
        case FieldKind.TIME:
            dated = column.dates >= column.rows * NEARLY_ALL
            return dated and column.distinct >= FEWEST_TIMES
    return True


def _by_values(field: SchemaField, free: Sequence[Column]) -> Match | None:
    fits = [column for column in free if column.filled + column.listed and _fits(field, column)]
    if not fits or not field.required:
        return None
    best = min(fits, key=lambda column: _rank(field, column))
    return Match(field.role, best.name, _because(field, best))


def _fits(field: SchemaField, column: Column) -> bool:
    filled = column.filled
    match field.kind:
        case FieldKind.TEXT:
            return column.mean_chars >= TEXT_MEAN_CHARS and column.numbers < filled * NEARLY_ALL
        case FieldKind.LABEL | FieldKind.CATEGORY:
            repeats = 2 <= column.distinct < filled and column.distinct <= max(2.0, filled * LABEL_DISTINCT_SHARE)
            return repeats and column.mean_chars <= LABEL_MEAN_CHARS
        case FieldKind.LABELS:
            cells = column.filled + column.listed
            repeats = 2 <= column.labels <= max(2.0, cells * LABEL_DISTINCT_SHARE)
            return repeats and column.several > 0 and column.mean_chars <= 2 * LABEL_MEAN_CHARS
        case FieldKind.NUMBER:
            return column.numbers >= filled * NEARLY_ALL
        case FieldKind.DATE:
            return column.dates >= filled * NEARLY_ALL
        case FieldKind.ID:
            return column.distinct == filled
        case FieldKind.COLUMNS | FieldKind.GROUP | FieldKind.TIME:
            return False  # the last two by name only: a wrong one would change what is learned


def _rank(field: SchemaField, column: Column) -> float:
    """The smallest is the best of those that fit."""
    if field.kind is FieldKind.TEXT:
        return -column.mean_chars
    return column.labels if field.kind is FieldKind.LABELS else column.distinct_share


def _because(field: SchemaField, column: Column) -> str:
    if field.kind is FieldKind.LABELS:
        cells = column.filled + column.listed
        return f"by its values: {column.labels:,} labels that repeat in {cells:,} rows, several in one cell"
    wants = {
        FieldKind.TEXT: "the longest texts",
        FieldKind.LABEL: "few, short values that repeat",
        FieldKind.CATEGORY: "few, short values that repeat",
        FieldKind.NUMBER: "numbers only",
        FieldKind.DATE: "dates only",
        FieldKind.ID: "no value twice",
    }
    return f"by its values: {wants[field.kind]} ({facts(column)})"


def _split(free: Sequence[Column]) -> list[Match]:
    for column in free:
        if plain(column.name) not in SPLIT_NAMES:
            continue
        if not column.filled + column.listed:  # later rows alone name one, as where a test file was appended
            return [Match(SPLIT, column.name, "the name is usual for it, and the first rows leave it empty")]
        if column.few and column.few <= set(SPLIT_VALUES):
            return [Match(SPLIT, column.name, f"its values are {quoted(sorted(column.few))}")]
    return []


def _single(schema: Schema) -> list[SchemaField]:
    """The roles that take one column each."""
    return [field for field in schema.fields if field.kind is not FieldKind.COLUMNS]


def facts(column: Column) -> str:
    """What a reason by values goes by."""
    return (
        f"{column.distinct:,} distinct values in {column.filled:,} rows, {column.mean_chars:.0f} characters on average"
    )


def plain(name: str) -> str:
    """A column's name as it is compared: lower case, underscores for spaces and dashes."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def hint(name: str, names: Sequence[str]) -> str:
    """The nearest of the names as a question, or nothing."""
    close = get_close_matches(name, names, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def quoted(names: Sequence[str]) -> str:
    """The first names, for a sentence."""
    short = [repr(name) for name in names[:20]]
    return ", ".join(short) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
