"""Reads tables row by row with exact line numbers: what can be read, and what is wrong with a row that cannot."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from tilth.core.errors import Invalid
from tilth.core.text import storable
from tilth.datasets.report import Problem, shown

CELL_CHARS = 1 << 20
"""Longest cell of a row that is accepted."""
LINE_BYTES = 32 << 20
"""Longest line, and longest quoted cell, that is read at all."""
BOM = b"\xef\xbb\xbf"
MOST_COLUMNS = 2000
CHAT = 'This is OpenAI\'s chat format ("messages"); send one text and its label on each line, e.g. {example}.'
EXAMPLE = '{"text": "Where is my card?", "label": "card_arrival"}'
SEND = "send CSV or JSON Lines, saved as UTF-8, or Parquet"

Cell = str | None
"""None: a list, an object or binary data, where a plain value should be."""


@dataclass(frozen=True)
class Record:
    """One row: the line it begins at (in Parquet its number), from 1, and a cell for each column."""

    line: int
    cells: list[Cell]


class Table(Protocol):
    """An opened file: its columns, then its rows in order."""

    columns: tuple[str, ...]
    unit: str
    """What the numbers of its records count: lines or rows."""

    def records(self) -> Iterator[Record | Problem]:
        """Every row; a Problem stands for one that cannot be read. Raises Invalid where nothing more can be."""

    def about(self) -> dict[str, object]:
        """What was found out about the format."""


@dataclass(frozen=True)
class BadBytes:
    """Where a line is not UTF-8."""

    line: int
    byte: int
    """In the line, from 1."""
    value: int

    def problem(self) -> Problem:
        """As a row's problem."""
        return Problem(
            kind="bad_utf8",
            message=f"byte {self.byte} of the line, 0x{self.value:02X}, is not UTF-8",
            cure="save the file as UTF-8",
            line=self.line,
        )


class Lines:
    """Physical lines of a file, decoded; ``bad`` has the places of the newest lines that are not UTF-8."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.number = 0
        self.bad: list[BadBytes] = []
        self.bom = file.read(len(BOM)) == BOM
        if not self.bom:
            file.seek(0)

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        raw = self._file.readline(LINE_BYTES + 1)
        if not raw:
            raise StopIteration
        self.number += 1
        if len(raw) > LINE_BYTES:
            raise Invalid(
                f"Line {self.number} is longer than {LINE_BYTES >> 20} MiB; a table has one row on each line.",
                code="line_too_long",
            )
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            byte = error.start + 1 + (len(BOM) if self.bom and self.number == 1 else 0)
            self.bad.append(BadBytes(self.number, byte, raw[error.start]))
            return raw.decode(errors="replace")


def refuse_names(names: Collection[str]) -> None:
    """Raises Invalid for too many columns, or one whose name cannot be kept."""
    if len(names) > MOST_COLUMNS:
        message = f"The file has more than {MOST_COLUMNS:,} columns; leave out those that nothing is learned from."
        raise Invalid(message, code="too_many_columns")
    for number, name in enumerate(names, start=1):
        if not storable(name):
            message = (
                f"The name of column {number} holds a NUL or half a surrogate pair; is this a table? If so, {SEND}."
            )
            raise Invalid(message, code="bad_character")


def cell_problem(record: Record, columns: tuple[str, ...]) -> Problem | None:
    """What no cell of any file may be: endless, or text that cannot be stored."""
    for column, cell in zip(columns, record.cells, strict=True):
        if cell is None or (len(cell) <= CELL_CHARS and storable(cell)):
            continue
        if len(cell) > CELL_CHARS:
            message, cure = f"the cell has more than {CELL_CHARS:,} characters", "shorten it or remove the row"
            return Problem("long_cell", message, cure, record.line, column, shown(cell))
        message, cure = "the cell holds a NUL or half a surrogate pair", "remove that character"
        return Problem("bad_character", message, cure, record.line, column, shown(cell))
    return None


def open_lines(path: Path) -> tuple[BinaryIO, Lines]:
    """The file and its lines, behind a byte order mark if there is one."""
    file = path.open("rb")
    return file, Lines(file)
