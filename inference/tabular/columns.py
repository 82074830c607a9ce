"""Columns of a table as numbers, fixed by the training rows: scales, categories, and what is missing."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from tilth.contract.errors import ContractError
from torch import Tensor

MOST_CATEGORIES = 255
"""Of a column; rarer ones are read as unknown."""
LEAST_ROWS = 2
"""With a category, for it to be known."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOST = 1e30
"""Numbers end there, so that fp32 holds them."""
ROUNDING = 1e-12
"""Of a column's largest number: what varies less is constant."""
UNKNOWN = 0
"""The code of a category that is missing or was not seen in training."""

BOOLEANS = {each: name for name in ("true", "false") for each in (name, name.capitalize(), name.upper())}
"""Spelling → the one of JSON."""

Cells = Mapping[str, JsonValue]
"""Column → cell of one row; None, or no such key: missing."""


class InputRefused(ContractError):
    """A row that cannot be read; names the column, what was found and what to send."""


@dataclass(frozen=True)
class Column:
    """One column: its kind, and what the training rows say of it."""

    name: str
    kind: str
    """number, category, date (read as days) or text."""
    mean: float = 0.0
    deviation: float = 1.0
    categories: tuple[str, ...] = ()

    @cached_property
    def codes(self) -> dict[str, int]:
        """Category → code, from 1 as they stand; a boolean is found in every spelling, as models may know any."""
        exact = {name: at for at, name in enumerate(self.categories, 1)}
        known = {BOOLEANS[name]: at for name, at in exact.items() if name in BOOLEANS}
        return {each: known[name] for each, name in BOOLEANS.items() if name in known} | exact

    def said(self, cell: JsonValue) -> str | None:
        """A cell as text, a category as the training rows spell it; None if it is missing."""
        text = said(cell)
        return self.categories[self.codes[text] - 1] if text in self.codes else text


@dataclass(frozen=True)
class Columns:
    """All columns that are learned from, in the order of the frozen version."""

    all: tuple[Column, ...]

    @classmethod
    def of(cls, rows: Sequence[Cells], kinds: Mapping[str, str]) -> "Columns":
        """As the training rows have them."""
        return cls(tuple(_column(name, kind, rows) for name, kind in kinds.items()))

    @classmethod
    def saved(cls, facts: Any) -> "Columns":
        """From ``facts``."""
        return cls(tuple(Column(**{**each, "categories": tuple(each["categories"])}) for each in facts))

    def facts(self) -> list[JsonValue]:
        """Plain data."""
        made: list[JsonValue] = json.loads(json.dumps([asdict(column) for column in self.all]))
        return made

    @property
    def measured(self) -> list[Column]:
        """Numbers and dates."""
        return [column for column in self.all if column.kind in ("number", "date")]

    @property
    def chosen(self) -> list[Column]:
        """Categories."""
        return [column for column in self.all if column.kind == "category"]

    def numbers(self, rows: Sequence[Cells]) -> NDArray[numpy.float64]:
        """[rows, measured columns], NaN where a cell is missing; raises InputRefused."""
        made = [[measure(column, row.get(column.name)) for column in self.measured] for row in rows]
        return numpy.array(made, dtype=numpy.float64).reshape(len(rows), len(self.measured)).clip(-MOST, MOST)

    def codes(self, rows: Sequence[Cells]) -> NDArray[numpy.int64]:
        """[rows, chosen columns]: from 1 as the categories stand, UNKNOWN for others."""
        places = [(column.name, column.codes) for column in self.chosen]
        made = [[place.get(said(row.get(name)) or "", UNKNOWN) for name, place in places] for row in rows]
        return numpy.array(made, dtype=numpy.int64).reshape(len(rows), len(self.chosen))

    def table(self, rows: Sequence[Cells]) -> NDArray[numpy.float64]:
        """[rows, measured and chosen columns]: numbers, then codes; NaN where missing or unknown."""
        codes = self.codes(rows).astype(numpy.float64)
        codes[codes == UNKNOWN] = numpy.nan
        return numpy.concatenate([self.numbers(rows), codes], axis=1)

    def dense(self, rows: Sequence[Cells]) -> Tensor:
        """[rows, width]: standardised numbers (0: missing) with a flag for missing, then one 0 or 1 per category."""
        numbers = torch.from_numpy(self.numbers(rows))
        scale = torch.tensor([[column.mean, column.deviation] for column in self.measured]).double().reshape(-1, 2)
        gone = numbers.isnan()
        standard = ((numbers - scale[:, 0]) / scale[:, 1]).clamp(-MOST, MOST).masked_fill(gone, 0.0)
        parts = [standard, gone.double()]
        codes = torch.from_numpy(self.codes(rows))
        for at, column in enumerate(self.chosen):
            parts.append(torch.nn.functional.one_hot(codes[:, at], len(column.categories) + 1).double())
        return torch.cat(parts, dim=1).float()

    def sentence(self, row: Cells) -> str:
        """The row as an encoder of texts reads it: ``name: value`` of every cell that is there."""
        told = [(column.name, column.said(row.get(column.name))) for column in self.all]
        return "; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in told if value)


def said(cell: JsonValue) -> str | None:
    """A cell as text; None if it is missing."""
    if isinstance(cell, str):
        return cell.strip() or None
    return None if cell is None else json.dumps(cell)


def measure(column: Column, cell: JsonValue) -> float:
    """A number, or a date's days since 1970; NaN if it is missing; raises InputRefused."""
    text = said(cell)
    if text is None:
        return float("nan")
    try:
        return float(text) if column.kind == "number" else _days(datetime.fromisoformat(text))
    except ValueError:
        what = "a number, e.g. 1.5" if column.kind == "number" else "a date, e.g. 2026-12-31"
        raise InputRefused(
            f"the column {column.name!r} holds {text[:60]!r}; it must be {what}, or be left out"
        ) from None


def _days(found: datetime) -> float:
    """Since 1970; without a zone it is UTC."""
    return ((found if found.tzinfo else found.replace(tzinfo=UTC)) - EPOCH) / timedelta(days=1)


def _column(name: str, kind: str, rows: Sequence[Cells]) -> Column:
    plain = Column(name, kind)
    if kind == "category":
        there = (value for row in rows if (value := said(row.get(name))) is not None)
        counted = Counter(BOOLEANS.get(value, value) for value in there)
        kept = [value for value, count in counted.most_common(MOST_CATEGORIES) if count >= LEAST_ROWS]
        return Column(name, kind, categories=tuple(sorted(kept)))
    if kind in ("number", "date"):
        values = numpy.array([measure(plain, row.get(name)) for row in rows]).clip(-MOST, MOST)
        values = values[~numpy.isnan(values)]
        if len(values):
            varies = values.std() > max(ROUNDING * abs(values).max(), 1 / MOST)
            return Column(name, kind, float(values.mean()), float(values.std()) if varies else 1.0)
    return plain
