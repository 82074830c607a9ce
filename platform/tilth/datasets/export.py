"""Problems as CSV, to be mended in a spreadsheet: a cell that a spreadsheet would run as a formula is escaped."""

import csv
from collections.abc import Iterable, Mapping
from io import StringIO
from typing import Any

COLUMNS = ("file", "line", "column", "value", "message", "cure")
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def escaped(value: object) -> str:
    """A cell's text, behind an apostrophe if it begins like a formula."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def problems_csv(problems: Iterable[Mapping[str, Any]]) -> str:
    """One row for each problem, with CRLF, as RFC 4180 wants it."""
    out = StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    writer.writerows([escaped(problem.get(column)) for column in COLUMNS] for problem in problems)
    return out.getvalue()
