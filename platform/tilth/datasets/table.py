"""The whole table in DuckDB, which spills to disk: what all rows together show, the splits, the Parquet file."""

# ruff: noqa: S608 - statements are made of constants and of names from a vertical's face; values are bound

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from tilth.contract.vertical import FieldKind, Schema, SchemaField
from tilth.datasets.checks import Row, Value
from tilth.datasets.duck import confined
from tilth.datasets.placing import SPLITS, Placing, rank
from tilth.datasets.report import KEPT

NAME = "rows.jsonl"
ROW_BYTES = 16 << 20
"""Longest row that is taken, as JSON."""
STRATA = 10
"""Ranges of a number, each of which every split gets its share of."""
TYPES = {FieldKind.NUMBER: "DOUBLE"}


class RowFile:
    """Rows on their way into DuckDB: one JSON object on each line, kept on disk."""

    def __init__(self, folder: Path, schema: Schema) -> None:
        self._file = (folder / NAME).open("wb")
        self._names = _names(schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def add(self, source: int, line: int, given: str | None, key: str, row: Row) -> bool:
        """Appends a row; False if it is too long."""
        values = {name: _plain(row.get(role)) for role, name in self._names.items()}
        text = orjson.dumps({"source": source, "line": line, "given": given, "key": key, **values})
        if len(text) > ROW_BYTES:
            return False
        self._file.write(text + b"\n")
        return True


class Rows:
    """All rows that can be read."""

    def __init__(self, folder: Path, schema: Schema, roles: Sequence[str], target: str | None) -> None:
        """``roles`` have a column in the Parquet file; ``target`` is the one that is learned."""
        self._db = confined(folder=folder)
        names = _names(schema)
        self._roles = {role: names[role] for role in roles}
        self._free = [field.role for field in schema.fields if field.kind is FieldKind.COLUMNS and field.role in roles]
        types = {names[field.role]: TYPES.get(field.kind, "VARCHAR") for field in schema.fields}
        shape = {"source": "INTEGER", "line": "BIGINT", "given": "VARCHAR", "key": "VARCHAR", **types}
        self._db.execute(
            f"CREATE TABLE rows AS SELECT *, {names[target] if target else 'NULL'} AS target,"
            " coalesce(given, 'train') AS side"
            f" FROM read_json(?, format = 'newline_delimited', columns = {shape}, maximum_object_size = {ROW_BYTES})",
            [str(folder / NAME)],
        )
        several = target is not None and schema.field(target).kind is FieldKind.LABELS
        self._label = """unnest(from_json(target, '["VARCHAR"]'))""" if several else "target"
        number = target is not None and schema.field(target).kind is FieldKind.NUMBER
        stratum = f"ntile({STRATA}) OVER (ORDER BY target)" if number else "coalesce(target, '')"
        self.placing = Placing(
            self._db, folder, group=_of(schema.group, names), time=_of(schema.time, names), stratum=stratum
        )

    def count(self, where: str = "true") -> int:
        """Rows."""
        return int(self._one(f"SELECT count(*) FROM rows WHERE {where}"))

    def learnable_groups(self) -> int:
        """Different rows on the training side."""
        return int(self._one("SELECT count(DISTINCT key) FROM rows WHERE side = 'train'"))

    def classes(self, but: Sequence[str]) -> int:
        """Different labels on the training side, those of ``but`` not counted."""
        labels = f"SELECT {self._label} AS label FROM rows WHERE side = 'train'"
        return int(
            self._one(f"SELECT count(DISTINCT label) FROM ({labels}) WHERE NOT list_contains(?, label)", [list(but)])
        )

    def labels_left(self, but: Sequence[str]) -> list[str]:
        """The first labels of the training side, those of ``but`` left out."""
        found = self._db.execute(
            "SELECT DISTINCT target FROM rows WHERE side = 'train' AND NOT list_contains(?, target) LIMIT 5",
            [list(but)],
        )
        return [label for (label,) in found.fetchall()]

    def take_conflicts(self) -> tuple[int, list[tuple[Any, ...]]]:
        """Removes rows that say the same under different labels.

        Returns how many, and of the first (source, line, label, other source, other line, other label).
        """
        self._db.execute(
            """CREATE TEMP TABLE conflict AS SELECT key, target, min((source, line)) AS place FROM rows
               WHERE key IN (SELECT key FROM rows GROUP BY key HAVING min(hash(target)) <> max(hash(target)))
               GROUP BY ALL"""  # a set of labels for each key, as count(DISTINCT) keeps it, does not spill
        )
        found = self._db.execute(
            f"""WITH named AS (SELECT source, line, key, target FROM rows WHERE key IN (SELECT key FROM conflict)
                               ORDER BY source, line LIMIT {KEPT})
                SELECT source, line, named.target, arg_min((place, conflict.target), place) AS other
                FROM named JOIN conflict ON named.key = conflict.key AND named.target <> conflict.target
                GROUP BY source, line, named.target ORDER BY source, line"""
        ).fetchall()
        count = self._delete("key IN (SELECT key FROM conflict)")
        return count, [(source, line, label, *place, other) for source, line, label, (place, other) in found]

    def take_leaks(self) -> tuple[int, list[tuple[Any, ...]]]:
        """Removes from training what stands in validation or test too, and from validation what stands in test.

        Returns how many, and of the first (source, line, side, other source, other line, other side).
        """
        self._db.execute(
            f"""CREATE TEMP TABLE held AS SELECT key, side, min((source, line)) AS place FROM rows
                WHERE side <> 'train' GROUP BY ALL;
                CREATE TEMP TABLE leak AS
                SELECT source, line, rows.side, arg_max((place, held.side), {rank("held.side")}) AS other
                FROM rows JOIN held ON rows.key = held.key AND {rank("held.side")} > {rank("rows.side")}
                GROUP BY ALL"""
        )
        found = self._db.execute(f"SELECT * FROM leak ORDER BY source, line LIMIT {KEPT}").fetchall()
        count = self._delete("(source, line) IN (SELECT (source, line) FROM leak)")
        return count, [(source, line, side, *place, other) for source, line, side, (place, other) in found]

    def take_rare(self, but: Sequence[str]) -> list[tuple[Any, ...]]:
        """Removes labels with one different row on the training side: (source, line, label, rows) of each."""
        found = self._db.execute(
            """SELECT min((source, line)) AS place, target, count(*) FROM rows
               WHERE side = 'train' AND NOT list_contains(?, target)
               GROUP BY target HAVING count(DISTINCT key) < 2 ORDER BY place""",
            [list(but)],
        ).fetchall()
        self._delete("side = 'train' AND list_contains(?, target)", [[label for _, label, _ in found]])
        return [(*place, label, rows) for place, label, rows in found]

    def take_unseen(self, but: Sequence[str]) -> tuple[int, list[tuple[Any, ...]]]:
        """Removes rows with a label that training has not: how many, and (source, line, label) of the first."""
        where = (
            "side <> 'train' AND NOT list_contains(?, target)"
            " AND target NOT IN (SELECT DISTINCT target FROM rows WHERE side = 'train')"
        )
        found = self._db.execute(
            f"SELECT source, line, target FROM rows WHERE {where} ORDER BY source, line LIMIT {KEPT}", [list(but)]
        ).fetchall()
        return self._delete(where, [list(but)]), found

    def duplicates(self) -> tuple[int, list[tuple[Any, ...]]]:
        """Rows that stand there already: how many, and of the first (source, line, first source, first line)."""
        self._db.execute(
            """CREATE TEMP TABLE twice AS SELECT key, min((source, line)) AS place, count(*) AS rows FROM rows
               GROUP BY key HAVING count(*) > 1"""
        )
        found = self._db.execute(
            f"""SELECT source, line, place FROM rows JOIN twice USING (key) WHERE (source, line) <> place
                ORDER BY source, line LIMIT {KEPT}"""
        ).fetchall()
        count = int(self._one("SELECT coalesce(sum(rows - 1), 0) FROM twice"))
        return count, [(source, line, *place) for source, line, place in found]

    def classes_of_training(self, but: Sequence[str]) -> int:
        """Different labels of the placed training rows, those of ``but`` not counted."""
        statement = "SELECT count(DISTINCT target) FROM frozen WHERE split = 'train' AND NOT list_contains(?, target)"
        return int(self._one(statement, [list(but)]))

    def only_judged(self, but: Sequence[str]) -> tuple[int, list[str]]:
        """Labels of placed rows that no training row has: how often they are there, and the first of them."""
        labels = f"SELECT split, {self._label} AS label FROM frozen"
        found = self._db.execute(
            f"""WITH labels AS ({labels})
                SELECT label, count(*) FROM labels WHERE split <> 'train' AND NOT list_contains(?, label)
                AND label NOT IN (SELECT label FROM labels WHERE split = 'train' AND label IS NOT NULL)
                GROUP BY label ORDER BY label""",
            [list(but)],
        ).fetchall()
        return sum(rows for _, rows in found), [label for label, _ in found[:5]]

    def splits(self) -> dict[str, int]:
        """Rows of each split."""
        found = dict(self._db.execute("SELECT split, count(*) FROM frozen GROUP BY split").fetchall())
        return {split: found.get(split, 0) for split in SPLITS}

    def labels(self, limit: int = 1000) -> dict[str, int]:
        """Rows of each label, the most frequent first."""
        order = f"GROUP BY label ORDER BY count(*) DESC, label LIMIT {limit}"
        return dict(
            self._db.execute(
                f"SELECT label, count(*) FROM (SELECT {self._label} AS label FROM frozen) {order}"
            ).fetchall()
        )

    def preview(self, rows: int) -> list[dict[str, Any]]:
        """The first rows of each split."""
        cursor = self._db.execute(
            f"SELECT line, split, {self._columns()} FROM frozen"
            f" QUALIFY row_number() OVER (PARTITION BY split ORDER BY source, line) <= {rows} ORDER BY {self._order()}"
        )
        names = [column[0] for column in cursor.description or []]
        found = [dict(zip(names, values, strict=True)) for values in cursor.fetchall()]
        return [{**row, **{role: json.loads(row[role]) for role in self._free}} for row in found]

    def write(self, path: Path, kinds: Mapping[str, str]) -> None:
        """Freezes the rows as Parquet: line, split, group (one number for what stays together), a column for each role.

        Free columns are a JSON object in one column; the file's metadata say how they are read, under ``kinds``.
        """
        metadata = ", KV_METADATA {kinds: ?}" if kinds else ""
        self._db.execute(
            f'COPY (SELECT line, split, part AS "group", {self._columns()} FROM frozen ORDER BY {self._order()})'
            f" TO '{path}'"
            f" (FORMAT parquet, COMPRESSION zstd{metadata})",
            [json.dumps(kinds)] if kinds else [],
        )

    def _columns(self) -> str:
        return ", ".join(f'{name} AS "{role}"' for role, name in self._roles.items())

    def _order(self) -> str:
        return f"{rank('split')}, source, line"

    def _one(self, statement: str, values: Sequence[Any] = ()) -> Any:
        row = self._db.execute(statement, list(values)).fetchone()
        return row[0] if row else 0

    def _delete(self, where: str, values: Sequence[Any] = ()) -> int:
        return int(self._one(f"DELETE FROM rows WHERE {where}", values))


def _plain(value: Value) -> str | float | None:
    """As one column of DuckDB keeps it."""
    return orjson.dumps(value).decode() if isinstance(value, dict) else value


def _of(field: SchemaField | None, names: Mapping[str, str]) -> str | None:
    return names[field.role] if field else None


def _names(schema: Schema) -> dict[str, str]:
    """Role → name of its column in DuckDB."""
    return {field.role: f"r{number}" for number, field in enumerate(schema.fields)}
