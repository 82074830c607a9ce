"""Finds what must stay together: equal rows, and rows of one group; equal rows of two groups join them (union-find)."""

from array import array
from collections.abc import Iterator
from pathlib import Path

import duckdb

FETCHED = 10_000
"""Joins that are read at once."""
ALONE = "('0x' || left(key, 15))::BIGINT"
"""The number of equal rows: 60 bits of their digest."""


def equal_rows(db: duckdb.DuckDBPyConnection) -> None:
    """The view ``parted``: the table ``rows`` with ``part``, one number for all that are equal."""
    db.execute(f"CREATE OR REPLACE VIEW parted AS SELECT *, {ALONE} AS part FROM rows")  # noqa: S608 - constants


def groups(db: duckdb.DuckDBPyConnection, folder: Path, group: str) -> None:
    """The same, one number for rows of one value of the column ``group`` too; a row without one stands for itself."""
    name = f"coalesce('g' || {group}, 'k' || key)"
    db.execute(
        f"""CREATE OR REPLACE TEMP TABLE numbered AS
            SELECT name, row_number() OVER (ORDER BY name) - 1 AS number
            FROM (SELECT DISTINCT {name} AS name FROM rows);
            CREATE OR REPLACE TEMP TABLE seen AS SELECT DISTINCT key, number FROM rows JOIN numbered ON name = {name};
            CREATE OR REPLACE TEMP TABLE least AS SELECT key, min(number) AS number FROM seen GROUP BY key"""  # noqa: S608
    )
    path = folder / "joined.csv"
    with path.open("w") as file:
        file.writelines(f"{number},{first}\n" for number, first in _joined(db))
    db.execute(
        """CREATE OR REPLACE TABLE joined AS
           SELECT * FROM read_csv(
               ?, header = false, auto_detect = false, columns = {'number': 'BIGINT', 'first': 'BIGINT'})""",
        [str(path)],
    )
    db.execute(
        """CREATE OR REPLACE TABLE parts AS
           SELECT key, coalesce(first, number) AS part FROM least LEFT JOIN joined USING (number);
           CREATE OR REPLACE VIEW parted AS SELECT rows.*, part FROM rows JOIN parts USING (key)"""
    )


def _joined(db: duckdb.DuckDBPyConnection) -> Iterator[tuple[int, int]]:
    """(number, the first that it is joined with) of those that are not the first themselves."""
    found = db.execute("SELECT count(*) FROM numbered").fetchone()
    parent = array("q", range(found[0] if found else 0))
    cursor = db.execute(
        """SELECT least.number, seen.number FROM seen JOIN least USING (key) WHERE seen.number <> least.number"""
    )
    while pairs := cursor.fetchmany(FETCHED):
        for one, other in pairs:
            first, second = _root(parent, one), _root(parent, other)
            parent[max(first, second)] = min(first, second)
    for number in range(len(parent)):
        if (first := _root(parent, number)) != number:
            yield number, first


def _root(parent: "array[int]", number: int) -> int:
    """Halves the way for those who ask next (Tarjan and van Leeuwen 1984)."""
    while parent[number] != number:
        parent[number] = parent[parent[number]]
        number = parent[number]
    return number
