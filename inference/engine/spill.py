"""What may be larger than memory lies in files without a name, and is read piece by piece where it is needed.

Such a file is gone with its process. The kernel keeps of it in memory what there is room for, so small data is as fast
as if it were held.
"""

import json
import os
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from tempfile import TemporaryFile
from typing import TypeVar, overload

import torch
from tilth.contract.messages import Row
from torch import Tensor

FLOAT = 4
"""Bytes of an fp32 number."""
KEPT = 256 << 20
"""Bytes of a matrix that is held in memory; a larger one is mapped from a file."""
WRITTEN = 1 << 20
"""Bytes that are written together."""
T = TypeVar("T")
U = TypeVar("U")


class Lazy(Sequence[T]):
    """A sequence whose items are made when they are asked for, each time anew."""

    def __init__(self, count: int, item: Callable[[int], T]) -> None:
        self._count = count
        self._item = item

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> list[T]: ...
    def __getitem__(self, at: int | slice) -> T | list[T]:
        if isinstance(at, slice):
            return [self._item(each) for each in range(*at.indices(self._count))]
        if not -self._count <= at < self._count:
            raise IndexError(f"{at} of {self._count}")
        return self._item(at % self._count)

    def __iter__(self) -> Iterator[T]:
        return map(self._item, range(self._count))


class Records:
    """Byte strings by number."""

    def __init__(self) -> None:
        with TemporaryFile() as file:
            self._file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._file)
        self._ends = array("Q", [0])
        self._unwritten = bytearray()

    def append(self, record: bytes) -> None:
        """One more."""
        self._unwritten += record
        self._ends.append(self._ends[-1] + len(record))
        if len(self._unwritten) >= WRITTEN:
            self._write()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, at: int) -> bytes:
        if self._unwritten:
            self._write()
        start, end = self._ends[at : at + 2]
        return os.pread(self._file, end - start, start)

    def sizes(self) -> Tensor:
        """[records] bytes of each."""
        return torch.tensor(self._ends, dtype=torch.int64).diff()

    def _write(self) -> None:
        left = memoryview(self._unwritten)
        while left:
            left = left[os.write(self._file, left) :]
        self._unwritten = bytearray()


class Rows:
    """Takes rows of the same names, one after the other."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._records = Records()

    def append(self, values: Iterable[object]) -> None:
        """One row's values, in the names' order."""
        self._records.append(json.dumps(list(values), default=str).encode())

    def all(self) -> Sequence[Row]:
        """The rows so far."""
        return Lazy(len(self._records), self._row)

    def _row(self, at: int) -> Row:
        return dict(zip(self._names, json.loads(self._records[at]), strict=True))


class Ragged(Lazy[list[int]]):
    """Lists of token ids."""

    def __init__(self, lists: Iterable[list[int]]) -> None:
        self._records = Records()
        for each in lists:
            self._records.append(array("i", each).tobytes())
        super().__init__(len(self._records), self._list)

    @property
    def lengths(self) -> Tensor:
        """[lists] numbers in each."""
        return self._records.sizes() // array("i").itemsize

    def _list(self, at: int) -> list[int]:
        return array("i", self._records[at]).tolist()


def picked(items: Sequence[T], kept: Tensor) -> Sequence[T]:
    """Those where ``kept`` [items] is true."""
    if kept.all():
        return items
    places = kept.nonzero().flatten()
    return Lazy(len(places), lambda at: items[int(places[at])])


def mapped(items: Sequence[T], change: Callable[[T], U]) -> Sequence[U]:
    """Each changed."""
    return Lazy(len(items), lambda at: change(items[at]))


def joined(first: Sequence[T], then: Sequence[T]) -> Sequence[T]:
    """One after the other."""
    return Lazy(len(first) + len(then), lambda at: first[at] if at < len(first) else then[at - len(first)])


def spills(rows: int, width: int) -> bool:
    """Whether a matrix of fp32 is too large to be held."""
    return rows * width * FLOAT > KEPT


def held(rows: int, width: int) -> int:
    """Bytes of memory that a matrix of fp32 takes."""
    return 0 if spills(rows, width) else rows * width * FLOAT


def zeros(rows: int, width: int) -> Tensor:
    """[rows, width] fp32, in memory or mapped from a file."""
    if not spills(rows, width):
        return torch.zeros(rows, width)
    with TemporaryFile() as file:
        os.truncate(file.fileno(), rows * width * FLOAT)
        return torch.from_file(f"/dev/fd/{file.fileno()}", shared=True, size=rows * width).view(rows, width)
