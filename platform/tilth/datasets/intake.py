"""Reads the files of a version: finds their columns, checks each row, keeps the good ones for the whole table."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from tilth.contract.vertical import FieldKind, Schema, SchemaField
from tilth.core.errors import Invalid
from tilth.datasets.checks import Row, RowCheck, key_of, target_of
from tilth.datasets.columns import SPLIT, Match, match_columns, refuse_missing
from tilth.datasets.features import Feature, match_all, refuse_featureless, used_kinds
from tilth.datasets.opening import open_table
from tilth.datasets.profile import SAMPLED_ROWS, profile
from tilth.datasets.reading import Record, Table
from tilth.datasets.report import Problem, Problems
from tilth.datasets.table import RowFile

SAMPLED_CHARS = 1 << 25
NOT_SAID = (FieldKind.GROUP, FieldKind.TIME)
"""Whose a row is and when it came about are no part of what it says: equal rows of two customers are equal."""


@dataclass(frozen=True)
class Source:
    """One file: where it lies, its name, which split it is (None: still to be split), which parameter gave it."""

    path: Path
    name: str
    split: str | None
    param: str


class Intake:
    """Takes files in, one after the other; what is wrong with rows is in ``problems``."""

    def __init__(
        self, schema: Schema, said: Mapping[str, str] | None, kinds: Mapping[str, str] | None, rows: RowFile
    ) -> None:
        self._schema, self._said, self._kinds, self._rows = schema, said, kinds, rows
        target = target_of(schema)
        self._key = [field for field in schema.fields if field.kind not in NOT_SAID and field != target]
        self.problems = Problems()
        self.matches: list[list[Match]] = []
        """Of each file."""
        self.features: list[Feature] = []
        """Of the first file, whose kinds hold for the others."""
        self._read_as: dict[str, str] = {}
        """Column → kind of those features."""
        self.about: list[dict[str, Any]] = []
        self.count = 0
        """Rows read, good or bad."""

    def take(self, source: Source) -> None:
        """Checks every row of a file; raises Invalid, naming the file, where it cannot be read on."""
        try:
            self._take(source)
        except Invalid as error:
            message = error.message if source.name in error.message else f"{source.name}: {error.message}"
            raise Invalid(message, param=error.param or source.param, code=error.reason, **error.extra) from None

    def fields(self) -> list[SchemaField]:
        """Those that have a column in some file."""
        found = {match.role for matches in self.matches for match in matches}
        if (rest := self._schema.free_columns) and used_kinds(self.features):
            found.add(rest.role)
        return [field for field in self._schema.fields if field.role in found]

    def _take(self, source: Source) -> None:
        table = open_table(source.path)
        matches = self._match(table, source)
        check = RowCheck(self._schema, table.columns, matches, self.features)
        number, count = len(self.about), 0
        for record in table.records():
            count += 1
            row = record if isinstance(record, Problem) else check(record)
            if not isinstance(row, Problem):
                row = self._keep(number, source, record.line or 0, row)
            if isinstance(row, Problem):
                self.problems.add(replace(row, file=source.name, unit=table.unit))
        self.about.append(
            {"name": source.name, "split": source.split, "rows": count, "unit": table.unit, **table.about()}
        )
        self.count += count

    def _match(self, table: Table, source: Source) -> list[Match]:
        """The first file's mapping holds for the others as far as they have its columns."""
        columns = profile(table.columns, sampled(table))
        if not self.matches:
            matches, self.features = match_all(self._schema, columns, self._said, self._kinds)
            self._read_as = used_kinds(self.features)
        else:
            said = {match.role: match.column for match in self.matches[0] if match.column in table.columns}
            kept = [feature.column for feature in self.features]
            matches = match_columns(self._schema, columns, said, kept)
        refuse_missing(self._schema, matches, table.columns, source.name)
        refuse_featureless(self._schema, self.features, table.columns, source.name)
        self.matches.append(matches)
        return matches

    def _keep(self, number: int, source: Source, line: int, row: Row) -> Row | Problem:
        named = row.pop(SPLIT, None)
        given = source.split or (str(named) if named else None)
        if self._rows.add(number, line, given, key_of(row, self._key, self._read_as), row):
            return row
        return Problem("long_row", "the row is too long", "shorten its cells or remove the row", line)


def sampled(table: Table) -> Iterator[Record]:
    """The first rows that can be read, a bounded amount."""
    chars = 0
    for record in islice(table.records(), SAMPLED_ROWS):
        if isinstance(record, Record):
            chars += sum(len(cell or "") for cell in record.cells)
            if chars > SAMPLED_CHARS:
                return
            yield record
