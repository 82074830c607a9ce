"""A customer's writes of batches, and the step from a file that was read to lines that are answered."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from tilth.batches.leftovers import remove_later
from tilth.batches.models import Batch
from tilth.batches.states import ENDED, Endpoint, State
from tilth.batches.targets import Target, target_find
from tilth.batches.turns import capped, release
from tilth.core.clock import now
from tilth.core.crash import crash_point
from tilth.core.errors import Invalid, NotFound, TooMany
from tilth.core.ids import public
from tilth.core.money import Price
from tilth.core.scope import in_tenant
from tilth.core.wake import wake_worker
from tilth.datasets.selectors import file_get
from tilth.datasets.services import refuse_life
from tilth.tenants.principal import Principal
from tilth.tenants.scopes import Scope
from tilth.tenants.services import audit
from tilth.usage import services as usage

WINDOW = timedelta(hours=24)
"""``completion_window="24h"``, the only one there is."""
PURPOSE = "batch"
MOST_UNFINISHED = 100
"""Batches of one organisation that may wait."""


@dataclass(frozen=True)
class Order:
    """What a customer asks for."""

    input_file: UUID
    endpoint: Endpoint
    model: str = ""
    """The file holds plain rows for it; empty: it holds requests."""
    columns: dict[str, str] | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    output_expires_after_s: int | None = None


@dataclass(frozen=True)
class Extent:
    """What was read of a file."""

    lines: int
    chunks: int
    first: int
    """Units of the price that the first chunk takes at most."""


@in_tenant
def batch_create(*, tenant: UUID, by: Principal, order: Order) -> UUID:
    """A batch whose file is to be read next. Raises NotFound for file or model, Invalid, TooMany."""
    by.need(Scope.PREDICT)
    refuse_life(order.output_expires_after_s, "output_expires_after.seconds")
    _refuse_purpose(tenant, order.input_file)
    if order.model:
        target_find(tenant=tenant, endpoint=order.endpoint, model=order.model)
    if Batch.objects.exclude(state__in=ENDED).count() >= MOST_UNFINISHED:
        raise TooMany(f"{MOST_UNFINISHED} batches are under way; make another when one has ended.", retry_after=60)
    made = Batch.objects.create(
        input_file_id=order.input_file, endpoint=order.endpoint, rows=bool(order.model), model=order.model,
        columns=order.columns, metadata=order.metadata, output_expires_after_s=order.output_expires_after_s,
        key=by.key, expires_at=now() + WINDOW,
    )  # fmt: skip
    audit(by.actor, "batch.create", made.id.hex)
    wake_worker()
    return made.id


@in_tenant
def batch_cancel(*, tenant: UUID, by: Principal, batch: UUID) -> None:
    """What is answered is delivered, the rest is left; doing it twice changes nothing. Raises NotFound, Invalid."""
    found = Batch.locked(id=batch)
    if found is None:
        raise NotFound.of("batch", public("batch", batch))
    match State(found.state):
        case State.CANCELLING | State.CANCELLED:
            return
        case State.VALIDATING:
            found.cancelling_at = now()
            _end(found, State.CANCELLED)
        case State.IN_PROGRESS:
            found.state, found.cancelling_at = State.CANCELLING, now()
            found.save()
        case State.FINALIZING if found.ending == State.CANCELLED:
            return
        case _:
            raise Invalid(f"The batch is {found.state} and cannot be cancelled.", code="batch_ended")
    audit(by.actor, "batch.cancel", batch.hex)
    wake_worker()


@in_tenant
def batch_validated(*, tenant: UUID, batch: UUID, model: str, target: Target, extent: Extent) -> bool:
    """The file is read: the price is stamped, the work may begin; False if it has been cancelled, or was read twice."""
    found = Batch.locked(id=batch, state=State.VALIDATING)
    if found is None:
        return False
    price = usage.price_at(unit=target.unit, moment=found.created_at)
    found.model, found.digest, found.price = model, target.digest, price
    found.total, found.chunks = extent.lines, extent.chunks
    amount = Price(price.micro_usd, price.per_quantity).ceil(extent.first)
    if usage.budget_ended(tenant=tenant, amount_micro_usd=amount, capped=capped(found)):
        _fail(found, [out_of_budget()])
        return True
    found.state, found.in_progress_at = State.IN_PROGRESS, now()
    found.save()
    wake_worker()
    crash_point("read.validated")
    return True


@in_tenant
def batch_refused(*, tenant: UUID, batch: UUID, errors: Sequence[dict[str, Any]]) -> None:
    """The file cannot be worked on; the batch fails with what is wrong and where."""
    if found := Batch.locked(id=batch, state=State.VALIDATING):
        _fail(found, errors)


@in_tenant
def batches_abandon(*, tenant: UUID) -> None:
    """Ends all of an organisation that leaves, at once and without files."""
    for found in Batch.objects.select_for_update().exclude(state__in=ENDED):
        release(found)
        found.turn += 1
        _end(found, State.CANCELLED)


def out_of_budget() -> dict[str, Any]:
    """The error of a batch that the budget does not cover, in OpenAI's form."""
    message = "The month's budget, or the key's cap, does not cover the rest of the batch; raise it and ask again."
    return {"code": "budget_exceeded", "message": message, "param": None, "line": None}


def _refuse_purpose(tenant: UUID, file: UUID) -> None:
    purpose = file_get(tenant=tenant, file=file).purpose
    if purpose != PURPOSE:
        message = f"{public('file', file)} has purpose {purpose!r}; upload it as {PURPOSE!r}."
        raise Invalid(message, param="input_file_id", code="wrong_purpose")


def _fail(batch: Batch, errors: Sequence[dict[str, Any]]) -> None:
    batch.errors = list(errors)
    _end(batch, State.FAILED)


def _end(batch: Batch, state: State) -> None:
    batch.state, batch.finished_at = state, now()
    batch.save()
    remove_later(batch)
