"""JSON Lines: one object on each line; its keys are the columns."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tilth.core.errors import Invalid
from tilth.datasets.reading import (
    CHAT,
    EXAMPLE,
    MOST_COLUMNS,
    Cell,
    Lines,
    Record,
    cell_problem,
    open_lines,
    refuse_names,
)
from tilth.datasets.report import Problem, shown
from tilth.datasets.several import Listed

SNIFFED_ROWS = 1000
"""Rows whose keys make the columns."""


class JsonlTable:
    """A JSON Lines file; columns are the keys of its first rows, in order of appearance."""

    unit = "line"

    def __init__(self, path: Path) -> None:
        self._path = path
        self.columns: tuple[str, ...] = ()
        file, lines = open_lines(path)
        with file:
            self.bom = lines.bom
            objects = [found for found in islice(_objects(lines), SNIFFED_ROWS) if not isinstance(found, Problem)]
        self.columns = tuple(dict.fromkeys(key for _, found in objects for key in found))[:MOST_COLUMNS]
        refuse_names(self.columns)
        if objects and "messages" in objects[0][1]:
            raise Invalid(CHAT.format(example=EXAMPLE), code="chat_format")

    def about(self) -> dict[str, object]:
        """Byte order mark."""
        return {"format": "jsonl", "byte_order_mark": self.bom}

    def records(self) -> Iterator[Record | Problem]:
        """Every row that is not blank."""
        file, lines = open_lines(self._path)
        with file:
            for found in _objects(lines):
                yield found if isinstance(found, Problem) else self._checked(*found)

    def _checked(self, line: int, found: dict[str, Any]) -> Record | Problem:
        record = Record(line, [_cell(found.get(column, "")) for column in self.columns])
        return cell_problem(record, self.columns) or record


def _objects(lines: Lines) -> Iterator[tuple[int, dict[str, Any]] | Problem]:
    """(line, object) of each line that is not blank."""
    for text in lines:
        if lines.bad:
            yield lines.bad.pop().problem()
        elif text.strip():
            yield _parsed(lines.number, text)


def _parsed(line: int, text: str) -> tuple[int, dict[str, Any]] | Problem:
    cure = f"write one object on each line, e.g. {EXAMPLE}"
    try:
        found = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        why = "too deeply nested" if isinstance(error, RecursionError) else str(error).partition(": line")[0]
        return Problem("bad_json", f"this is no JSON object: {why}", cure, line, value=shown(text.strip()))
    if not isinstance(found, dict):
        return Problem("bad_json", f"this is a JSON {_kind(found)}", cure, line, value=shown(text.strip()))
    return line, found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice")
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _cell(value: Any) -> Cell:
    match value:
        case str():
            return value
        case None:
            return ""
        case list():
            return Listed(json.dumps(value, ensure_ascii=False))
        case dict():
            return None
        case _:
            return json.dumps(value)


def _kind(value: Any) -> str:
    names = {list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
