"""Reads a frozen dataset version: Parquet with line, split and one column per role."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
from tilth.contract.messages import Row

from inference.engine.errors import JobFault
from inference.engine.spill import Rows

SPLITS = ("train", "validation", "test")
FETCHED = 2048
KINDS = "kinds"
"""Of the Parquet file's own facts: JSON, column → kind."""


@dataclass(frozen=True)
class Splits:
    """Rows of each split, in the file's order."""

    train: Sequence[Row]
    validation: Sequence[Row]
    test: Sequence[Row]
    kinds: dict[str, str]
    """Of the free columns, as the frozen version says them: number, category, date or text."""


def read_splits(path: Path) -> Splits:
    """The rows of a frozen version; raises JobFault if the file is no such version."""
    try:
        with duckdb.connect(config={"threads": 1}) as memory:
            kinds = _kinds(memory, path)
            cursor = memory.execute("SELECT * FROM read_parquet(?)", [str(path)])
            columns = [column[0] for column in cursor.description or []]
            if "split" not in columns:
                found = ", ".join(columns)
                raise JobFault("dataset_unreadable", f"the frozen dataset has no column split, it has {found}")
            by_split = _read(cursor, columns)
    except duckdb.OutOfMemoryException as cause:
        raise MemoryError(str(cause)) from cause
    except duckdb.Error as cause:
        raise JobFault("dataset_unreadable", f"the frozen dataset cannot be read: {cause}") from cause
    return Splits(**by_split, kinds=kinds)


def _read(cursor: duckdb.DuckDBPyConnection, columns: list[str]) -> dict[str, Sequence[Row]]:
    """By split, as the file has them, never more than FETCHED rows in memory."""
    at, made = columns.index("split"), {split: Rows(columns) for split in SPLITS}
    while fetched := cursor.fetchmany(FETCHED):
        for values in fetched:
            if values[at] in made:
                made[values[at]].append(values)
    return {split: rows.all() for split, rows in made.items()}


def _kinds(memory: duckdb.DuckDBPyConnection, path: Path) -> dict[str, str]:
    found = memory.execute(
        "SELECT decode(value) FROM parquet_kv_metadata(?) WHERE decode(key) = ?", [str(path), KINDS]
    ).fetchone()
    kinds: dict[str, str] = json.loads(found[0]) if found else {}
    return kinds
