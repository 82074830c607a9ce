"""Reads a frozen dataset version: Parquet with line, split and one column per role."""

import json
from dataclasses import dataclass
from pathlib import Path

import duckdb
from tilth.contract.messages import Row

from inference.engine.errors import JobFault

SPLITS = ("train", "validation", "test")
KINDS = "kinds"
"""Of the Parquet file's own facts: JSON, column → kind."""


@dataclass(frozen=True)
class Splits:
    """Rows of each split, in the file's order."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]
    kinds: dict[str, str]
    """Of the free columns, as the frozen version says them: number, category, date or text."""


def read_splits(path: Path) -> Splits:
    """The rows of a frozen version; raises JobFault if the file is no such version."""
    try:
        with duckdb.connect() as memory:
            cursor = memory.execute("SELECT * FROM read_parquet(?) ORDER BY split, line", [str(path)])
            columns = [column[0] for column in cursor.description or []]
            rows: list[Row] = [dict(zip(columns, values, strict=True)) for values in cursor.fetchall()]
            kinds = _kinds(memory, path)
    except duckdb.OutOfMemoryException as cause:
        raise MemoryError(str(cause)) from cause
    except duckdb.Error as cause:
        raise JobFault("dataset_unreadable", f"the frozen dataset cannot be read: {cause}") from cause
    if "split" not in columns:
        raise JobFault("dataset_unreadable", f"the frozen dataset has no column split, it has {', '.join(columns)}")
    by_split = {split: [row for row in rows if row["split"] == split] for split in SPLITS}
    return Splits(**by_split, kinds=kinds)


def _kinds(memory: duckdb.DuckDBPyConnection, path: Path) -> dict[str, str]:
    found = memory.execute(
        "SELECT decode(value) FROM parquet_kv_metadata(?) WHERE decode(key) = ?", [str(path), KINDS]
    ).fetchone()
    kinds: dict[str, str] = json.loads(found[0]) if found else {}
    return kinds
