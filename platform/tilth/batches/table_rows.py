"""Reads a table of plain rows for one model: columns as the model knows them, row by row. Runs in the child."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from tilth.batches.items import Item, Packer
from tilth.contract.vertical import Schema
from tilth.core.errors import Invalid
from tilth.datasets.checks import RowCheck, target_of
from tilth.datasets.columns import SPLIT, Match, match_columns, refuse_missing
from tilth.datasets.features import Feature, Kind, refuse_featureless
from tilth.datasets.intake import sampled
from tilth.datasets.opening import open_table
from tilth.datasets.profile import profile
from tilth.datasets.reading import Table
from tilth.datasets.report import Problem

MOST_ROWS = 1_000_000


@dataclass(frozen=True)
class Wish:
    """What the model was learned from, and what the customer says of this file."""

    schema: Schema
    columns: Mapping[str, str]
    """Role → column of the rows that it was learned from."""
    kinds: Mapping[str, str]
    """Free column → how it was read then."""
    said: Mapping[str, str] | None
    """Role → column of this file, as far as the customer says it."""
    name: str
    """Of the file."""


def read_rows(path: Path, wish: Wish, packer: Packer) -> dict[str, Any]:
    """Reads it all; a row that cannot be asked is its own line's error. Raises Invalid for a file that cannot."""
    table = open_table(path)
    schema, features = _inputs(wish.schema), [Feature(c, Kind(k), "as learned") for c, k in wish.kinds.items()]
    matches = _matched(table, schema, wish)
    refuse_missing(schema, matches, table.columns, wish.name)
    refuse_featureless(schema, features, table.columns, wish.name)
    check = RowCheck(schema, table.columns, matches, features)
    for record in table.records():
        if packer.lines >= MOST_ROWS:
            raise Invalid(f"A batch has at most {MOST_ROWS:,} rows; split the file.", code="too_many_rows")
        row = record if isinstance(record, Problem) else check(record)
        if isinstance(row, Problem):
            packer.add(_refused(replace(row, unit=table.unit)), 0)
        else:
            row.pop(SPLIT, None)
            packer.add(Item(record.line or 0, inputs=[row]), len(orjson.dumps(row)))
    packer.flush()
    return {"columns": {match.role: match.column for match in matches}, "faults": []}


def _inputs(schema: Schema) -> Schema:
    """The roles that a model reads: all but the one that it tells."""
    target = target_of(schema)
    return schema.model_copy(update={"fields": tuple(field for field in schema.fields if field != target)})


def _matched(table: Table, schema: Schema, wish: Wish) -> list[Match]:
    """As the customer says, else as the model learned it where such a column is there, else by name and values."""
    roles = {field.role for field in schema.fields}
    learned = {r: c for r, c in wish.columns.items() if r in roles and c in table.columns}
    said = dict(wish.said or {})
    free = {role: column for role, column in learned.items() if role not in said and column not in said.values()}
    return match_columns(schema, profile(table.columns, sampled(table)), {**free, **said}, kept=wish.kinds)


def _refused(problem: Problem) -> Item:
    told = {"message": problem.sentence(), "code": problem.kind, "param": problem.column}
    return Item(problem.line or 0, error=told)
