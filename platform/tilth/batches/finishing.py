"""The end of a batch: its lines, in the order of the input, into an output and an error file; then it has ended."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from tilth.batches.items import unpacked
from tilth.batches.leftovers import remove_later
from tilth.batches.lines import GOOD, Lines
from tilth.batches.models import Batch, Chunk
from tilth.batches.places import chunk_path
from tilth.batches.services import out_of_budget
from tilth.batches.states import State
from tilth.batches.turns import StaleTurn, release
from tilth.core import storage
from tilth.core.clock import now
from tilth.core.crash import crash_point
from tilth.core.ids import public, uuid7
from tilth.core.scope import in_tenant
from tilth.core.storage import StoredObject, Writer
from tilth.datasets.models import ANSWERS
from tilth.datasets.services import file_path, result_create

LEFT = {
    State.EXPIRED: ("batch_expired", "This request could not be executed before the completion window expired."),
    State.CANCELLED: ("batch_cancelled", "This request was not executed: the batch was cancelled before."),
    State.FAILED: ("budget_exceeded", "This request was not executed: the budget did not cover it."),
}
"""What is said of lines that nobody came to, by how the batch ends."""


@dataclass(frozen=True)
class Written:
    """A result file whose bytes are stored under its id."""

    file: UUID
    stored: StoredObject
    lines: int


def batch_finish(*, tenant: UUID, batch: UUID, ending: State) -> None:
    """Ends a batch; killed anywhere, it is done again and ends once. Raises StaleTurn if another does it."""
    found = _begin(tenant=tenant, batch=batch, ending=ending)
    crash_point("finishing.begun")
    good, bad = _written(found, _answered(tenant=tenant, batch=batch))
    crash_point("finishing.stored")
    _end(tenant=tenant, batch=batch, turn=found.turn, good=good, bad=bad)
    crash_point("finishing.committed")


@in_tenant
def _begin(*, tenant: UUID, batch: UUID, ending: State) -> Batch:
    """From now on no chunk is begun or recorded; what was decided first counts, a cancellation before all."""
    found = Batch.locked(id=batch, state__in=(State.IN_PROGRESS, State.CANCELLING, State.FINALIZING))
    if found is None:
        raise StaleTurn(f"batch {batch.hex} has ended already")
    if found.state == State.CANCELLING:
        ending = State.CANCELLED
    release(found)
    found.ending = found.ending or ending
    found.state, found.finalizing_at = State.FINALIZING, found.finalizing_at or now()
    found.turn += 1
    found.save()
    return found


@in_tenant
def _answered(*, tenant: UUID, batch: UUID) -> dict[int, str]:
    """Chunk → path of its answers."""
    return dict(Chunk.objects.filter(batch_id=batch).values_list("number", "path"))


@in_tenant
def _end(*, tenant: UUID, batch: UUID, turn: int, good: Written | None, bad: Written | None) -> None:
    found = Batch.locked(id=batch, state=State.FINALIZING, turn=turn)
    if found is None:
        raise StaleTurn(f"another has ended batch {batch.hex}; these files are swept")
    found.output_file_id = _file(found, good, "output")
    found.error_file_id = _file(found, bad, "error")
    found.completed, found.failed = good.lines if good else 0, bad.lines if bad else 0
    found.state, found.finished_at = State(found.ending), now()
    if found.state == State.FAILED:
        found.errors = [out_of_budget()]
    found.save()
    remove_later(found)
    crash_point("finishing.ended")


def _file(batch: Batch, written: Written | None, what: str) -> UUID | None:
    if written is None:
        return None
    made = result_create(
        tenant=batch.tenant_id, file=written.file, filename=f"{public('batch', batch.id)}_{what}.jsonl",
        stored=written.stored, purpose=ANSWERS, expires_after_s=batch.output_expires_after_s,
    )  # fmt: skip
    return made.id


class _Result:
    """A file on its way: there only if it has a line."""

    def __init__(self, tenant: UUID) -> None:
        self._file = uuid7()
        self._path = file_path(tenant, self._file)
        self._writer: Writer | None = None
        self._lines = 0

    def __enter__(self) -> "_Result":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None and self._writer is not None:
            self._writer.abort()

    def add(self, line: bytes) -> None:
        """Appends."""
        self._writer = self._writer or Writer(self._path)
        self._writer.write(line)
        self._lines += 1

    def stored(self) -> Written | None:
        """None without a line."""
        return Written(self._file, self._writer.commit(), self._lines) if self._writer else None


def _written(batch: Batch, answered: Mapping[int, str]) -> tuple[Written | None, Written | None]:
    """(output, errors). Both are written at once, a line at a time."""
    with ExitStack() as stack:
        good, bad = (stack.enter_context(_Result(batch.tenant_id)) for _ in range(2))
        for line in _lines(batch, answered):
            (good if line.startswith(GOOD) else bad).add(line[1:])
        return good.stored(), bad.stored()


def _lines(batch: Batch, answered: Mapping[int, str]) -> Iterator[bytes]:
    """Every line with its mark, in the order of the input."""
    lines = Lines(batch.id, batch.endpoint, batch.model, batch.digest)
    for number in range(batch.chunks):
        if path := answered.get(number):
            yield from storage.read(path).splitlines(keepends=True)
            continue
        why = LEFT[State(batch.ending)]
        for item in unpacked(storage.read(chunk_path(batch.tenant_id, batch.id, number))):
            yield lines.left(item, *why)
