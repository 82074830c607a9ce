"""The lines of a batch between reading and answering, packed into chunks; written by the child, read by the runner."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from tilth.contract.vertical import counts_rows

CHUNK_ROWS = 256
"""Rows answered and billed together, unless one line has more."""
CHUNK_BYTES = 1 << 20
TOKENS_AROUND = 2
"""Tokens that frame a row."""


@dataclass(frozen=True)
class Item:
    """One line: what it asks, or why it cannot be asked."""

    line: int
    """Of the input file, from 1; in Parquet the row's number."""
    custom_id: str | None = None
    """None: a plain row."""
    inputs: list[Any] = field(default_factory=list)
    """Rows of roles, or texts."""
    plain: bool = False
    """Of texts: vectors as numbers, not as base64."""
    error: dict[str, Any] | None = None
    """{message, code, param}"""


class Packer:
    """Puts items into chunks, each a file ``<number>`` in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._items: list[Item] = []
        self._rows = self._bytes = 0
        self.chunks = self.lines = 0

    def add(self, item: Item, size: int) -> None:
        """Behind those before; ``size`` is about the item's bytes."""
        if self._items and (self._rows + len(item.inputs) > CHUNK_ROWS or self._bytes + size > CHUNK_BYTES):
            self.flush()
        self._items.append(item)
        self._rows += max(1, len(item.inputs))
        self._bytes += size
        self.lines += 1

    def flush(self) -> None:
        """Writes what waits."""
        if not self._items:
            return
        (self._folder / str(self.chunks)).write_bytes(packed(self._items))
        self.chunks += 1
        self._items, self._rows, self._bytes = [], 0, 0


def packed(items: Sequence[Item]) -> bytes:
    """As JSON."""
    return orjson.dumps([asdict(item) for item in items])


def unpacked(content: bytes) -> list[Item]:
    """What ``packed`` made."""
    return [Item(**each) for each in orjson.loads(content)]


def most_tokens(rows: Sequence[Any]) -> int:
    """No tokenizer makes more tokens of a row than its JSON has bytes, but for those that frame it."""
    return sum(len(orjson.dumps(row)) + TOKENS_AROUND for row in rows)


def most_units(items: Sequence[Item], unit: str) -> int:
    """What answering them costs at most, in units of that name."""
    rows = [row for item in items for row in item.inputs]
    return len(rows) if counts_rows(unit) else most_tokens(rows)
