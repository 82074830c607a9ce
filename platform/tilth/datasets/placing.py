"""Puts rows on sides, each part of rows that must stay together as one: at random, balanced by groups, or by time."""

# ruff: noqa: S608 - statements are made of constants and of names that RowFile gave; values are bound

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb

from tilth.datasets.report import KEPT
from tilth.datasets.splits import How
from tilth.datasets.together import FETCHED, equal_rows, groups

TAKEN_OUT = 10
"""One part in so many goes to validation, and one to test, where these are not given."""
SPLITS = ("train", "validation", "test")


def rank(column: str) -> str:
    """SQL: the place of a split in SPLITS."""
    return f"CASE {column} WHEN 'train' THEN 0 WHEN 'validation' THEN 1 ELSE 2 END"


class Placing:
    """Of the table ``rows``; what it places is the view ``frozen``: the rows with ``part`` and ``split``."""

    def __init__(
        self, db: duckdb.DuckDBPyConnection, folder: Path, *, group: str | None, time: str | None, stratum: str
    ) -> None:
        """``group`` and ``time`` are columns of ``rows``; every split gets its share of each ``stratum``, in SQL."""
        self._db, self._folder = db, folder
        self._group, self._time, self._stratum = group, time, stratum

    def connect(self, *, grouped: bool) -> None:
        """Finds what must stay together."""
        if grouped and self._group:
            groups(self._db, self._folder, self._group)
        else:
            equal_rows(self._db)

    def wanted(self) -> list[str]:
        """Splits that no file and no cell gives."""
        given = {side for (side,) in self._db.execute("SELECT DISTINCT side FROM rows").fetchall()}
        return [split for split in SPLITS[1:] if split not in given]

    def place(self, how: How, seed: int) -> bool:
        """Takes what is wanted out of training; False if there are too few different times for that."""
        wanted = self.wanted()
        self._db.execute("CREATE OR REPLACE TABLE placed (part BIGINT, split VARCHAR)")
        match how:
            case _ if not wanted:
                done = True
            case How.RANDOM:
                done = self._at_random(wanted, seed)
            case How.GROUPED:
                done = self._by_groups(wanted, seed)
            case How.TIME:
                done = self._by_time(wanted)
        self._db.execute(
            """CREATE OR REPLACE VIEW frozen AS
               SELECT parted.*, CASE side WHEN 'train' THEN coalesce(split, 'train') ELSE side END AS split
               FROM parted LEFT JOIN placed USING (part)"""
        )
        return done

    def strays(self) -> tuple[int, list[tuple[Any, ...]]]:
        """Rows whose part is in a later given split, too: how many, and of the first (source, line, side, other)."""
        self._db.execute(
            f"""CREATE OR REPLACE TEMP TABLE stray AS
                WITH held AS (SELECT part, arg_max(side, {rank("side")}) AS other FROM parted
                              WHERE side <> 'train' GROUP BY part)
                SELECT source, line, side, other FROM parted JOIN held USING (part)
                WHERE {rank("other")} > {rank("side")}"""
        )
        first = self._db.execute(f"SELECT * FROM stray ORDER BY source, line LIMIT {KEPT}").fetchall()
        return int(self._one("SELECT count(*) FROM stray")), first

    def take_strays(self) -> None:
        """Removes what ``strays`` has found."""
        self._db.execute("DELETE FROM rows WHERE (source, line) IN (SELECT (source, line) FROM stray)")

    def largest(self) -> tuple[int, int]:
        """(rows of the largest part of the training side before anything was taken out, all rows there)."""
        sizes = "SELECT count(*) AS n FROM parted WHERE side = 'train' GROUP BY part"
        row = self._db.execute(f"SELECT coalesce(max(n), 0), coalesce(sum(n), 0) FROM ({sizes})").fetchone()
        return (int(row[0]), int(row[1])) if row else (0, 0)

    def parts(self) -> dict[str, int]:
        """Parts of each split."""
        found = dict(self._db.execute("SELECT split, count(DISTINCT part) FROM frozen GROUP BY split").fetchall())
        return {split: found.get(split, 0) for split in SPLITS}

    def begins(self) -> dict[str, str]:
        """The oldest last time of a part of each split, where there is one."""
        lasts = f"SELECT split, part, max({self._time}) AS last FROM frozen GROUP BY ALL"
        found = self._db.execute(f"SELECT split, min(last) FROM ({lasts}) WHERE last IS NOT NULL GROUP BY split")
        return dict(found.fetchall())

    def _at_random(self, wanted: list[str], seed: int) -> bool:
        """Every tenth part; they are ordered by label, then at random, so every label gives its share."""
        places = {"test": 0, "validation": TAKEN_OUT // 2}
        chosen = " ".join(f"WHEN place % {TAKEN_OUT} = {places[side]} THEN '{side}'" for side in wanted)
        self._db.execute(
            f"""INSERT INTO placed
                WITH equal AS (SELECT part, min(key) AS key, min(target) AS target FROM parted WHERE side = 'train'
                               GROUP BY part),
                place AS (SELECT part, {seed % TAKEN_OUT} + row_number() OVER (
                    ORDER BY target, md5(concat({seed}, key)), key) AS place FROM equal)
                SELECT part, CASE {chosen} END AS split FROM place WHERE split IS NOT NULL"""
        )
        return True

    def _by_groups(self, wanted: list[str], seed: int) -> bool:
        """The largest first, each to the split that is furthest from its share of such rows."""
        shares = _shares(wanted)
        labelled = f"SELECT part, {self._stratum} AS stratum FROM parted WHERE side = 'train'"
        totals = dict(self._db.execute(f"SELECT stratum, count(*) FROM ({labelled}) GROUP BY stratum").fetchall())
        balance = Balance(shares, totals)
        cursor = self._db.execute(
            f"""WITH counted AS (SELECT part, stratum, count(*) AS n FROM ({labelled}) GROUP BY ALL)
                SELECT part, list(stratum ORDER BY stratum), list(n ORDER BY stratum) FROM counted GROUP BY part
                ORDER BY sum(n) DESC, md5(concat({seed}, part)), part"""
        )
        path = self._folder / "placed.csv"
        with path.open("w") as file:
            for part, strata, counts in _fetched(cursor):
                if (split := balance.take(dict(zip(strata, counts, strict=True)))) != "train":
                    file.write(f"{part},{split}\n")
        self._db.execute(
            """INSERT INTO placed SELECT * FROM
               read_csv(?, header = false, auto_detect = false, columns = {'part': 'BIGINT', 'split': 'VARCHAR'})""",
            [str(path)],
        )
        return True

    def _by_time(self, wanted: list[str]) -> bool:
        """Parts of one last time stay together, too; where none is known it counts as the oldest."""
        self._db.execute(
            f"""CREATE OR REPLACE TEMP TABLE lasts AS
                SELECT part, coalesce(max({self._time}), '') AS last, count(*) AS n FROM parted WHERE side = 'train'
                GROUP BY part;
                CREATE OR REPLACE TEMP TABLE moments AS
                SELECT last, row_number() OVER (ORDER BY last) AS place, sum(n) OVER (ORDER BY last) AS upto
                FROM (SELECT last, sum(n) AS n FROM lasts GROUP BY last)"""
        )
        places, rows = self._db.execute("SELECT count(*), coalesce(max(upto), 0) FROM moments").fetchone() or (0, 0)
        if places <= len(wanted):
            return False
        ends: list[tuple[str, str]] = []
        for before, split in enumerate(reversed(wanted), 1):
            # the nearest to its share of the borders that leave a time for each split on either side
            border, places = self._nearest(rows * (1 - before / TAKEN_OUT), len(wanted) - before + 1, places - 1)
            ends.append((split, border))
        chosen = " ".join(f"WHEN last > ? THEN '{split}'" for split, _ in ends)
        self._db.execute(
            f"INSERT INTO placed SELECT part, CASE {chosen} END AS split FROM lasts WHERE split IS NOT NULL",
            [border for _, border in ends],
        )
        return True

    def _nearest(self, rows: float, first: int, last: int) -> tuple[str, int]:
        found = self._db.execute(
            "SELECT last, place FROM moments WHERE place BETWEEN ? AND ? ORDER BY abs(upto - ?), place LIMIT 1",
            [first, last, rows],
        ).fetchone()
        if found is None:
            raise AssertionError(f"no border from place {first} to {last}")
        return found[0], found[1]

    def _one(self, statement: str) -> Any:
        row = self._db.execute(statement).fetchone()
        return row[0] if row else 0


class Balance:
    """What each split has of each stratum, and of all rows, beside its share of them."""

    def __init__(self, shares: Mapping[str, float], totals: Mapping[Any, int]) -> None:
        self._shares, self._totals = shares, totals
        self._rows = sum(totals.values())
        self._have: dict[str, Counter[Any]] = defaultdict(Counter)
        self._size: Counter[str] = Counter()

    def take(self, counts: Mapping[Any, int]) -> str:
        """The split that would be fullest last, after it has taken these rows; training on a tie."""
        split = min(self._shares, key=lambda each: self._filled(each, counts))
        self._have[split].update(counts)
        self._size[split] += sum(counts.values())
        return split

    def _filled(self, split: str, counts: Mapping[Any, int]) -> float:
        have, size = self._have[split], sum(counts.values())
        by_stratum = sum(n * (have[stratum] + n) / self._totals[stratum] for stratum, n in counts.items())
        return (by_stratum + size * (self._size[split] + size) / self._rows) / self._shares[split]


def _shares(wanted: list[str]) -> dict[str, float]:
    taken = dict.fromkeys(wanted, 1 / TAKEN_OUT)
    return {"train": 1 - sum(taken.values()), **taken}


def _fetched(cursor: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    while rows := cursor.fetchmany(FETCHED):
        yield from rows
