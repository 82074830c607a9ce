"""What a column's first values look like: the facts from which roles are inferred."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from math import isfinite

from tilth.datasets.reading import Cell, Record
from tilth.datasets.several import Listed, labels_in

SAMPLED_ROWS = 20_000
EXAMPLES = 5
WORD_CHARS = 3
SET_CHARS = 1000
"""Longer cells are not looked into for labels."""


@dataclass(frozen=True)
class Column:
    """A column's name and what its sampled values are like."""

    name: str
    rows: int
    """Sampled."""
    filled: int
    """With a value."""
    distinct: int
    mean_chars: float
    numbers: int
    dates: int
    examples: tuple[str, ...]
    """The first distinct values."""
    few: frozenset[str]
    """All distinct values, lower case, if they are at most EXAMPLES."""
    mean_words: float
    steady: bool
    """Whole numbers, no one twice, that only rise or only fall from row to row."""
    several: int
    """Different cells that would hold more than one label."""
    labels: int
    """Distinct ones among all cells, if each holds labels."""
    listed: int
    """Cells that are lists; no plain values, so they do not count as filled."""

    @property
    def distinct_share(self) -> float:
        """Distinct values for each filled one."""
        return self.distinct / self.filled if self.filled else 0.0

    def as_json(self) -> dict[str, object]:
        """For the report."""
        return {
            "name": self.name,
            "filled": self.filled,
            "distinct": self.distinct,
            "mean_chars": round(self.mean_chars, 1),
            "examples": [example[:80] for example in self.examples],
        }


def profile(names: Sequence[str], records: Iterable[Record]) -> list[Column]:
    """Profiles of each column over these rows."""
    columns: list[list[str]] = [[] for _ in names]
    lists: list[list[str]] = [[] for _ in names]
    rows = 0
    for record in records:
        rows += 1
        for values, listed, cell in zip(columns, lists, record.cells, strict=True):
            if isinstance(cell, Listed):
                listed.append(cell)
            elif cell is not None and (value := cell.strip()):
                values.append(value)
    return [_column(name, rows, *found) for name, *found in zip(names, columns, lists, strict=True)]


def number(text: Cell) -> float | None:
    """A finite number, or None."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if isfinite(value) else None


def date(text: Cell) -> datetime | None:
    """A date as ISO 8601 writes it, or None."""
    try:
        return datetime.fromisoformat(text or "")
    except ValueError:
        return None


def _column(name: str, rows: int, values: list[str], lists: list[str]) -> Column:
    distinct = dict.fromkeys(values)
    short = [cell for cell in (*distinct, *dict.fromkeys(lists)) if len(cell) <= SET_CHARS]
    sets = [labels_in(cell) or [] for cell in short]
    few = frozenset(value.lower() for value in distinct) if len(distinct) <= EXAMPLES else frozenset()
    return Column(
        name=name,
        rows=rows,
        filled=len(values),
        distinct=len(distinct),
        mean_chars=sum(map(len, values)) / len(values) if values else 0.0,
        numbers=sum(number(value) is not None for value in values),
        dates=sum(date(value) is not None for value in values),
        examples=tuple(distinct)[:EXAMPLES],
        few=few,
        mean_words=sum(map(_words, values)) / len(values) if values else 0.0,
        steady=len(distinct) == len(values) and _steady(values),
        several=sum(len(labels) > 1 for labels in sets),
        labels=len({label for labels in sets for label in labels}),
        listed=len(lists),
    )


def _words(text: str) -> int:
    """Scripts that write no spaces, e.g. 東京都の天気は晴れ, have a word in about three characters."""
    return len(text.split()) if text.isascii() else max(len(text.split()), len(text) // WORD_CHARS)


def _steady(values: Sequence[str]) -> bool:
    try:
        whole = [int(value) for value in values]
    except ValueError:
        return False
    return len({(after > before) - (after < before) for before, after in pairwise(whole)}) == 1
