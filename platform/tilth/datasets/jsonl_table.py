"""JSON Lines: one object on each line; its keys are the columns."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from tilth.core.errors import Invalid
from tilth.core.pairs import unique
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


class JsonlTable:
    """A JSON Lines file; columns are the keys of all its rows, in order of appearance."""

    unit = "line"

    def __init__(self, path: Path) -> None:
        self._path = path
        file, lines = open_lines(path)
        with file:
            self.bom = lines.bom
            self.columns = _columns(lines)

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


def _columns(lines: Lines) -> tuple[str, ...]:
    """The keys of all rows; raises Invalid for too many, those that cannot be kept, and OpenAI's chat format."""
    names: dict[str, None] = {}
    for found in _found(lines):
        if not names and "messages" in found:
            raise Invalid(CHAT.format(example=EXAMPLE), code="chat_format")
        names.update(dict.fromkeys(found))
        if len(names) > MOST_COLUMNS:
            break
    refuse_names(names)
    return tuple(names)


def _found(lines: Lines) -> Iterator[dict[str, Any]]:
    """The objects alone, by the parser that takes a third of the time; the other reads what this one cannot."""
    for text in lines:
        if lines.bad:
            lines.bad.clear()
            continue
        try:
            found = orjson.loads(text)
        except orjson.JSONDecodeError:
            parsed = _parsed(lines.number, text)
            found = None if isinstance(parsed, Problem) else parsed[1]
        if isinstance(found, dict):
            yield found


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
        found = json.loads(text, object_pairs_hook=unique, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        why = "too deeply nested" if isinstance(error, RecursionError) else str(error).partition(": line")[0]
        return Problem("bad_json", f"this is no JSON object: {why}", cure, line, value=shown(text.strip()))
    if not isinstance(found, dict):
        return Problem("bad_json", f"this is a JSON {_kind(found)}", cure, line, value=shown(text.strip()))
    return line, found


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
