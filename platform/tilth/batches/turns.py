"""The money of a chunk: held before it is asked, recorded with its answers, once; whoever comes late is refused."""

from datetime import timedelta
from uuid import UUID

from tilth.batches.answering import Answers
from tilth.batches.models import Batch, Chunk
from tilth.batches.states import State
from tilth.contract.vertical import counts_rows
from tilth.core.clock import now
from tilth.core.crash import crash_point
from tilth.core.money import Price
from tilth.core.scope import in_tenant
from tilth.tenants.models import ApiKey
from tilth.usage import services as usage
from tilth.usage.models import Price as PriceRow

SOURCE = "batch"
HOLD_LIFE = timedelta(hours=1)
"""Longer than any chunk takes; a worker that dies leaves its hold to the next one, which gives it back first."""


class StaleTurn(RuntimeError):
    """Somebody else has the batch by now, or it was cancelled: what was done for it is thrown away."""


def chunk_begin(*, tenant: UUID, batch: UUID, number: int, units: int) -> int:
    """Holds what a chunk costs at most and takes the turn, whose number it returns; raises PaymentRequired, StaleTurn.

    The former turn's hold is given back in a transaction of its own: a refusal must not take that back.
    """
    _take(tenant=tenant, batch=batch, number=number)
    crash_point("chunk.taken")
    return _begin(tenant=tenant, batch=batch, number=number, units=units)


@in_tenant
def chunk_record(*, tenant: UUID, batch: UUID, number: int, turn: int, path: str, answers: Answers) -> None:
    """Answers, bill and progress in one transaction; raises StaleTurn."""
    found = Batch.locked(id=batch, state=State.IN_PROGRESS, turn=turn, next_chunk=number)
    if found is None:
        raise StaleTurn(f"chunk {number} of batch {batch.hex} came late")
    quantity = answers.rows if counts_rows(_price(found).unit) else answers.tokens
    Chunk.objects.create(
        batch=found, number=number, path=path, completed=answers.completed, failed=answers.failed, quantity=quantity
    )
    _bill(found, number, answers.rows, quantity)
    crash_point("chunk.billed")
    found.hold = None
    found.next_chunk += 1
    found.completed += answers.completed
    found.failed += answers.failed
    found.answered_rows += answers.rows
    found.answered_tokens += answers.tokens
    found.save()
    crash_point("chunk.recorded")


@in_tenant
def turn_stands(*, tenant: UUID, batch: UUID, turn: int) -> None:
    """Raises StaleTurn if it is no longer the newest, or the batch was cancelled."""
    if not Batch.objects.filter(id=batch, state=State.IN_PROGRESS, turn=turn).exists():
        raise StaleTurn(f"turn {turn} of batch {batch.hex} is over")


@in_tenant
def out_of_room(*, tenant: UUID, batch: UUID, units: int) -> bool:
    """Whether a chunk will not be covered, whatever else that is under way comes to."""
    found = Batch.objects.select_related("price").get(id=batch)
    return usage.budget_ended(tenant=tenant, amount_micro_usd=_amount(found, units), capped=capped(found))


def capped(batch: Batch) -> usage.Capped | None:
    """The key that asked, if it has a cap."""
    if batch.key is None:
        return None
    cap = ApiKey.objects.filter(id=batch.key).values_list("monthly_cap_micro_usd", flat=True).first()
    return None if cap is None else usage.Capped(batch.key, cap)


def release(batch: Batch) -> None:
    """Gives back what is held; the caller saves the batch."""
    if batch.hold is not None:
        usage.hold_release(tenant=batch.tenant_id, hold=batch.hold)
        batch.hold = None


@in_tenant
def _take(*, tenant: UUID, batch: UUID, number: int) -> None:
    found = _at(batch, number)
    release(found)
    found.turn += 1
    found.worked_at = now()
    found.save()


@in_tenant
def _begin(*, tenant: UUID, batch: UUID, number: int, units: int) -> int:
    found = _at(batch, number)
    found.hold = usage.hold_place(
        tenant=tenant, purpose=f"batch:{batch.hex}", amount_micro_usd=_amount(found, units),
        expires_at=now() + HOLD_LIFE, capped=capped(found),
    )  # fmt: skip
    found.turn += 1
    found.save()
    return found.turn


def _at(batch: UUID, number: int) -> Batch:
    """The batch, locked, if that chunk is its next."""
    found = Batch.locked(id=batch, state=State.IN_PROGRESS, next_chunk=number)
    if found is None:
        raise StaleTurn(f"chunk {number} of batch {batch.hex} is not to be done any more")
    return found


def _bill(batch: Batch, number: int, rows: int, quantity: int) -> None:
    """One event for ever, which gives the hold back; where nothing was answered there is none."""
    if not rows:
        release(batch)
        return
    usage.event_record(
        tenant=batch.tenant_id, source=SOURCE, event_id=f"{batch.id.hex}:{number}", price=_price(batch).id,
        quantity=quantity, subject=batch.model, occurred_at=now(), hold=batch.hold, key=batch.key,
        data={"rows": rows, "digest": batch.digest},
    )  # fmt: skip


def _amount(batch: Batch, units: int) -> int:
    price = _price(batch)
    return Price(price.micro_usd, price.per_quantity).ceil(units)


def _price(batch: Batch) -> PriceRow:
    if batch.price is None:
        raise ValueError(f"batch {batch.id.hex} has no price; it is not to be worked on yet")
    return batch.price
