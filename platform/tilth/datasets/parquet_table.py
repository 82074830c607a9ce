"""Parquet: rows in batches through DuckDB, each cell as the text that a CSV would hold; rows are counted from 1."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

import duckdb

from tilth.core.errors import Invalid
from tilth.datasets.duck import MEMORY_MIB, confined
from tilth.datasets.reading import CHAT, EXAMPLE, Record, cell_problem, refuse_names
from tilth.datasets.report import Problem

MAGIC = b"PAR1"
BATCH = 1024
"""Rows that are Python objects at once."""
MOST_ROWS = 100_000_000
"""A kilobyte of Parquet can stand for more rows than can ever be read."""
NOT_PLAIN = frozenset({"list", "array", "struct", "map", "union", "blob", "bit", "variant", "geometry"})
FROM = "FROM read_parquet(?, hive_partitioning = false)"


class ParquetTable:
    """A Parquet file."""

    unit = "row"

    def __init__(self, path: Path) -> None:
        _refuse_half(path)
        self._path = path
        self._db = confined(file=path)
        with self._readable():
            kinds = self._db.execute(f"SELECT * {FROM} LIMIT 0", [str(path)]).description or []
            facts = self._db.execute("SELECT num_rows, num_row_groups FROM parquet_file_metadata(?)", [str(path)])
            rows, self._groups = facts.fetchall()[0]
            named = self._db.execute("SELECT name FROM parquet_schema(?)", [str(path)]).fetchall()
        self.columns = tuple(name for name, *_ in kinds)
        self._not_plain = {name: str(kind) for name, kind, *_ in kinds if kind.id in NOT_PLAIN}
        self._cells = ", ".join(_cell(name, kind.id) for name, kind, *_ in kinds)
        _refuse(self.columns, [name for (name,) in named], rows, self._not_plain)

    def about(self) -> dict[str, object]:
        """Row groups, and the columns that hold no plain values, with their types."""
        return {"format": "parquet", "row_groups": self._groups, "not_plain": self._not_plain}

    def records(self) -> Iterator[Record | Problem]:
        """Every row."""
        numbers = count(1)
        with closing(self._db.cursor()) as cursor, self._readable():
            cursor.execute(f"SELECT {self._cells} {FROM}", [str(self._path)])
            while batch := cursor.fetchmany(BATCH):
                for cells in batch:
                    record = Record(next(numbers), list(cells))
                    yield cell_problem(record, self.columns) or record

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Raises Invalid for what DuckDB cannot read on, without our paths and statements."""
        try:
            yield
        except duckdb.OutOfMemoryException as error:
            raise Invalid(
                f"Reading a row group of the Parquet file takes more than {MEMORY_MIB} MiB; write it with smaller row "
                "groups, e.g. row_group_size=10000, and shorten its longest cells.",
                code="file_too_large",
            ) from error
        except duckdb.Error as error:
            why = str(error).partition("\n")[0].partition(": ")[2].replace(str(self._path), "the file")
            raise Invalid(
                f"The Parquet file cannot be read: {why.rstrip('.')}. Write it anew, e.g. with pandas' to_parquet, "
                "or send CSV.",
                code="bad_parquet",
            ) from error


def _refuse_half(path: Path) -> None:
    """Parquet begins and ends with the same four bytes."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(MAGIC)))
        end = file.read()
    if end != MAGIC or path.stat().st_size < 2 * len(MAGIC):
        raise Invalid(
            f"The Parquet file breaks off: it ends with the bytes {end.hex(' ')} instead of PAR1; send the whole file.",
            code="bad_parquet",
        )


def _refuse(columns: Sequence[str], named: Sequence[str], rows: int, not_plain: dict[str, str]) -> None:
    """Raises Invalid for too many columns or rows, names that stand twice or cannot be kept, OpenAI's chat format."""
    refuse_names(columns)
    if twice := [name for name in columns if name not in named]:
        raise Invalid(
            f'The column "{twice[0].rpartition("_")[0]}" is named twice (case does not count); rename one.',
            code="duplicate_column",
        )
    if rows > MOST_ROWS:
        raise Invalid(f"The file has {rows:,} rows; send at most {MOST_ROWS:,}.", code="file_too_large")
    if "messages" in not_plain:
        raise Invalid(CHAT.format(example=EXAMPLE), code="chat_format")


def _cell(name: str, kind: str) -> str:
    """A column as text in SQL: empty for no value or NaN, NULL (a cell of None) for what is no plain value."""
    column = '"' + name.replace('"', '""') + '"'
    if kind in NOT_PLAIN:
        return f"NULL AS {column}"
    text = f"CAST({column} AS VARCHAR)"
    if kind in ("float", "double"):  # pandas writes NaN where a number is missing
        text = f"CASE WHEN isnan({column}) THEN NULL ELSE {text} END"
    if kind == "timestamp with time zone":  # kept as UTC; shown without a look at time zones' names
        text = f"CAST(make_timestamp(epoch_us({column})) AS VARCHAR) || '+00:00'"
    if kind.startswith("timestamp"):
        text = f"replace({text}, ' ', 'T')"
    return f"coalesce({text}, '') AS {column}"
