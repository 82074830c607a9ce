"""CSV: delimiter sniffed, quoted newlines, ragged lines named; exact line numbers around the standard reader."""

import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tilth.core.errors import Invalid
from tilth.datasets.reading import LINE_BYTES, Lines, Record, cell_problem, open_lines, refuse_names
from tilth.datasets.report import Problem, shown

DELIMITERS = ",;\t"
SNIFFED_ROWS = 50

csv.field_size_limit(LINE_BYTES)


class CsvTable:
    """A CSV file whose first row names the columns."""

    unit = "line"

    def __init__(self, path: Path) -> None:
        self._path = path
        self.delimiter = _sniffed(path)
        file, lines = open_lines(path)
        with file:
            self.bom = lines.bom
            self.columns = _named(next(iter(_rows(lines, self.delimiter)), None), lines)

    def about(self) -> dict[str, object]:
        """Delimiter and byte order mark."""
        return {"format": "csv", "delimiter": self.delimiter, "byte_order_mark": self.bom}

    def records(self) -> Iterator[Record | Problem]:
        """Every row after the header."""
        file, lines = open_lines(self._path)
        with file:
            rows = _rows(lines, self.delimiter)
            next(rows)
            lines.bad.clear()
            for row in rows:
                yield self._checked(row, lines)

    def _checked(self, row: Record | Problem, lines: Lines) -> Record | Problem:
        if lines.bad:
            bad, lines.bad = lines.bad, []
            return row if isinstance(row, Problem) else bad[0].problem()
        if isinstance(row, Problem):
            return row
        if len(row.cells) != len(self.columns):
            return _ragged(row, self.columns, self.delimiter)
        return cell_problem(row, self.columns) or row


def _rows(lines: Lines, delimiter: str) -> Iterator[Record | Problem]:
    """Rows that are not blank; raises Invalid for a quote that swallows what follows."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        begin = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield _misquoted(begin, reader.line_num, str(error))
            continue
        if cells:
            yield Record(begin, list(cells))


def _misquoted(begin: int, end: int, why: str) -> Problem:
    """One line is a row's problem; more lines may hold rows that cannot be told apart."""
    if end > begin or "unexpected end" in why:
        raise Invalid(
            f"Line {begin}: a quote opened here does not end as a quote should up to line {end}; "
            'close it, or write each " inside a quoted cell twice.',
            code="open_quote",
        )
    cure = 'put the cell in quotes, and write each " inside it twice'
    return Problem("bad_quotes", "the quotes of this line do not match", cure, line=begin)


def _ragged(row: Record, columns: tuple[str, ...], delimiter: str) -> Problem:
    name = {"\t": "a tab"}.get(delimiter, f'"{delimiter}"')
    message = f"the row has {len(row.cells)} cells where the header has {len(columns)}"
    cure = f"put cells that contain {name} in quotes, and fill in missing ones"
    return Problem("ragged", message, cure, row.line, value=shown(delimiter.join(c or "" for c in row.cells)))


def _sniffed(path: Path) -> str:
    """The delimiter that gives the first rows the same number of cells, the more the better; a comma if none does."""
    return max(DELIMITERS, key=lambda delimiter: _fit(path, delimiter))


def _fit(path: Path, delimiter: str) -> tuple[float, int]:
    """(share of rows as wide as the header, cells of the header); zero where the header is not split."""
    file, lines = open_lines(path)
    try:
        with file:
            rows = list(islice(_rows(lines, delimiter), SNIFFED_ROWS))
    except Invalid:
        return 0.0, 0
    widths = [len(row.cells) if isinstance(row, Record) else 0 for row in rows]
    if not widths or widths[0] < 2:
        return 0.0, 0
    return sum(width == widths[0] for width in widths) / len(widths), widths[0]


def _named(header: Record | Problem | None, lines: Lines) -> tuple[str, ...]:
    """The header's names, stripped; raises Invalid for what names no columns."""
    if header is None:
        raise Invalid("The file is empty; its first line must name the columns.", code="empty_file")
    if isinstance(header, Problem) or lines.bad:
        problem = header if isinstance(header, Problem) else lines.bad[0].problem()
        raise Invalid(f"The header cannot be read: {problem.sentence()}.", code=problem.kind)
    names = [(cell or "").strip() or f"column_{number}" for number, cell in enumerate(header.cells, start=1)]
    refuse_names(names)
    seen: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if (first := seen.setdefault(name, number)) != number:
            raise Invalid(
                f'Line {header.line}: the column "{name}" is named twice, as columns {first} and {number}; rename one.',
                code="duplicate_column",
            )
    return tuple(names)
