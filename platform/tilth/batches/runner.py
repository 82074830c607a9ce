"""Moves batches on, a chunk at a time, behind everybody who waits for an answer; each organisation's in turn."""

import logging
import random
import time
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from tilth.batches.answering import Answerer, Answers, all_refused
from tilth.batches.finishing import batch_finish
from tilth.batches.items import Item, most_units, unpacked
from tilth.batches.lines import Lines
from tilth.batches.models import Batch
from tilth.batches.pace import BACK_OFF_S, SLICE_S
from tilth.batches.places import answers_path, chunk_path
from tilth.batches.queue import batches_to_work
from tilth.batches.selectors import batch_get
from tilth.batches.states import AT_WORK, State
from tilth.batches.targets import Target, target_find
from tilth.batches.turns import StaleTurn, chunk_begin, chunk_record, out_of_room, turn_stands
from tilth.core import storage
from tilth.core.clock import now
from tilth.core.crash import crash_point
from tilth.core.errors import Invalid, NotFound, PaymentRequired, TilthError, Unavailable
from tilth.core.loops import Crew
from tilth.dataplane.flow import batch_flow_of
from tilth.dataplane.grants import Grants
from tilth.dataplane.port import DataPlane

PATIENCE_S = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rest:
    """A batch that found the data plane away or no room in the budget."""

    until: float
    """Monotonic."""
    pause_s: float


class Runner:
    """What a batch meets makes it rest; what this process loses (the database, a disk) makes the whole loop rest."""

    def __init__(self, plane: DataPlane, grants: Grants, crew: Crew) -> None:
        self._answerer = Answerer(plane, grants)
        self._crew = crew
        self._rests: dict[UUID, Rest] = {}

    def step(self) -> None:
        """One batch of each organisation."""
        due = batches_to_work(but=self._resting())
        self._crew.work({tenant: partial(self.work, tenant, batch) for tenant, batch in due}, PATIENCE_S)

    def work(self, tenant: UUID, batch: UUID) -> None:
        """A slice of time for one batch."""
        until = time.monotonic() + SLICE_S
        try:
            while time.monotonic() < until and self._move(batch_get(tenant=tenant, batch=batch)):
                self._rests.pop(batch, None)
        except StaleTurn as error:
            log.info("%s", error)
        except Unavailable as error:
            log.warning("batch %s: %s; it rests", batch.hex, error)
            self._rest(batch)

    def _move(self, batch: Batch) -> bool:
        """One chunk, or the end; False when there is nothing more to do for now."""
        if batch.state not in AT_WORK:
            return False
        if ending := _ending(batch):
            batch_finish(tenant=batch.tenant_id, batch=batch.id, ending=ending)
            return False
        return self._chunk(batch)

    def _chunk(self, batch: Batch) -> bool:
        tenant, number = batch.tenant_id, batch.next_chunk
        items = unpacked(storage.read(chunk_path(tenant, batch.id, number)))
        target = _target(batch)
        units = most_units(items, target.unit) if isinstance(target, Target) else 0
        try:
            turn = chunk_begin(tenant=tenant, batch=batch.id, number=number, units=units)
        except PaymentRequired as error:
            return self._no_room(batch, units, error)
        crash_point("chunk.begun")
        answers = self._answers(batch, items, target, turn)
        crash_point("chunk.answered")
        path = answers_path(tenant, batch.id, number, turn)
        storage.put_stream(path, [answers.content])
        crash_point("chunk.stored")
        chunk_record(tenant=tenant, batch=batch.id, number=number, turn=turn, path=path, answers=answers)
        crash_point("chunk.committed")
        return True

    def _answers(self, batch: Batch, items: list[Item], target: Target | TilthError, turn: int) -> Answers:
        lines = Lines(batch.id, batch.endpoint, batch.model, batch.digest)
        if isinstance(target, TilthError):
            return all_refused(items, lines, target)
        going_on = partial(_going_on, batch, turn)
        return self._answerer.answer(items, lines, batch_flow_of(batch.tenant_id), target, going_on)

    def _no_room(self, batch: Batch, units: int, error: PaymentRequired) -> bool:
        """What is held for others may come back: then the batch waits. When the budget has ended, so has the batch."""
        if out_of_room(tenant=batch.tenant_id, batch=batch.id, units=units):
            batch_finish(tenant=batch.tenant_id, batch=batch.id, ending=State.FAILED)
            return False
        raise Unavailable(error.message) from error

    def _resting(self) -> list[UUID]:
        moment = time.monotonic()
        return [batch for batch, rest in list(self._rests.items()) if rest.until > moment]

    def _rest(self, batch: UUID) -> None:
        """Twice as long each time, up to half a minute, and not all at the same moment."""
        least, most = BACK_OFF_S
        former = self._rests.get(batch)
        pause_s = min(most, 2 * former.pause_s) if former else least
        self._rests[batch] = Rest(time.monotonic() + pause_s * random.uniform(0.5, 1.0), pause_s)


def _ending(batch: Batch) -> State | None:
    """How a batch ends, if there is nothing more to answer."""
    if batch.ending:
        return State(batch.ending)
    if batch.state == State.CANCELLING:
        return State.CANCELLED
    if batch.next_chunk == batch.chunks:
        return State.COMPLETED
    return State.EXPIRED if batch.expires_at <= now() else None


def _target(batch: Batch) -> Target | TilthError:
    """The model the batch was made for, as it is served now; what its lines are told if it is not any more."""
    try:
        found = target_find(tenant=batch.tenant_id, endpoint=batch.endpoint, model=batch.model)
    except NotFound as error:
        return error
    if found.digest != batch.digest:
        message = f"{batch.model} is another model than when the batch was read."
        return Invalid(message, code="model_changed", param="model")
    return found


def _going_on(batch: Batch, turn: int) -> None:
    """Raises StaleTurn when the batch is cancelled, or its window is over."""
    turn_stands(tenant=batch.tenant_id, batch=batch.id, turn=turn)
    if batch.expires_at <= now():
        raise StaleTurn(f"the window of batch {batch.id.hex} is over")
