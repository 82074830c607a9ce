"""A customer's writes of jobs, and the step from checked files into the queue."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

from django.conf import settings
from django.db import transaction

from tilth.contract.messages import TrainingOptions
from tilth.contract.registry import vertical
from tilth.core.clock import now
from tilth.core.crash import crash_point
from tilth.core.errors import Invalid, NotFound, PaymentRequired, TilthError
from tilth.core.ids import public
from tilth.core.money import Price
from tilth.core.scope import in_tenant
from tilth.core.wake import wake_worker
from tilth.datasets.models import DatasetVersion
from tilth.datasets.selectors import file_get
from tilth.tenants.principal import Principal
from tilth.tenants.services import audit
from tilth.training.estimates import cap_ms, estimate_ms, least_memory_mb, ms_per_row
from tilth.training.leftovers import remove_later
from tilth.training.models import Job
from tilth.training.queue import finished_rates
from tilth.training.states import ACTIVE, ENDED, State, Stop
from tilth.training.story import tell
from tilth.usage import services as usage
from tilth.usage.models import Price as PriceRow

UNIT = "training.device_ms"
HOLD_LIFE = timedelta(days=7)
"""Renewed each hour while the job goes on: a hold that nobody renews belongs to nothing."""


@dataclass(frozen=True)
class Order:
    """What a customer asks for."""

    vertical: str
    base_model: str
    training_file: UUID
    validation_file: UUID | None = None
    test_file: UUID | None = None
    columns: dict[str, str] | None = None
    kinds: dict[str, str] | None = None
    split: str | None = None
    accept_bad_rows: bool = False
    suffix: str = ""
    options: TrainingOptions = field(default_factory=TrainingOptions)
    asked: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


@in_tenant
def job_create(*, tenant: UUID, by: Principal, order: Order) -> UUID:
    """A job whose files are to be checked next; nothing is paid before that. Raises NotFound for unknown files."""
    files = {
        name: usable_file(tenant=tenant, file=value, param=name)
        for name in ("training_file", "validation_file", "test_file")
        if (value := getattr(order, name)) is not None
    }
    job = Job(
        **{f"{name}_id": value for name, value in files.items()},
        vertical=order.vertical, base_model=order.base_model, columns=order.columns, kinds=order.kinds,
        split=order.split, accept_bad_rows=order.accept_bad_rows, suffix=order.suffix,
        options=order.options.model_dump(mode="json"), asked=order.asked, metadata=order.metadata,
    )  # fmt: skip
    job.save()
    tell(job, f"Created fine-tuning job: {public('ftjob', job.id)}")
    tell(job, "Validating training file: " + public("file", order.training_file))
    job.save(update_fields=["event_count"])
    audit(by.actor, "job.create", job.id.hex)
    wake_worker()
    return job.id


@in_tenant
def job_validated(*, tenant: UUID, job: UUID, version: UUID) -> None:
    """Files are checked and frozen: the price is stamped, the money held, the job queued; twice changes nothing."""
    found = Job.locked(id=job, state=State.VALIDATING)
    if found is None:
        return
    frozen = DatasetVersion.objects.get(id=version)
    found.version, found.rows = frozen, frozen.rows
    _estimate(found)
    crash_point("validate.priced")
    try:
        _refuse_too_large(found)
        _hold(found)
    except (Invalid, PaymentRequired) as error:
        _fail(found, error)
        return
    crash_point("validate.held")
    tell(found, "Files validated, moving job to queued state")
    _queue(found)
    crash_point("validate.queued")


@in_tenant
def job_refused(*, tenant: UUID, job: UUID, error: TilthError) -> None:
    """The files cannot be learned from; the job fails with what is wrong and how to mend it."""
    if found := Job.locked(id=job, state=State.VALIDATING):
        _fail(found, error)


@in_tenant
def job_cancel(*, tenant: UUID, by: Principal, job: UUID) -> None:
    """Ends a job for good, at once if no trainer has it; doing it twice changes nothing."""
    found = _unfinished(job, "cancelled")
    if found is None:
        return
    if found.state in ACTIVE:
        found.stop = Stop.CANCEL
    else:
        _release(found)
        found.state, found.finished_at = State.CANCELLED, now()
        remove_later(found)
    _asked(found, by, "cancel", "The job has been cancelled" if found.finished_at else "Cancelling the job")


@in_tenant
def job_pause(*, tenant: UUID, by: Principal, job: UUID) -> None:
    """Frees the trainer after a checkpoint; doing it twice changes nothing."""
    found = _unfinished(job, "paused")
    if found is None or found.state == State.PAUSED:
        return
    match found.state:
        case State.VALIDATING:
            raise Invalid("The files of this job are still being checked; pause it when it is queued.")
        case State.QUEUED:
            _release(found)
            found.state = State.PAUSED
        case _ if found.stop != Stop.CANCEL:
            found.stop = Stop.PAUSE
    _asked(found, by, "pause", "The job is paused" if found.state == State.PAUSED else "Pausing the job")


@in_tenant
def job_resume(*, tenant: UUID, by: Principal, job: UUID) -> None:
    """Back into the queue with money held anew; raises PaymentRequired. A job that is not paused stays as it is."""
    found = _unfinished(job, "resumed")
    if found is None:
        return
    if found.state == State.PAUSED:
        _hold(found)
        _queue(found)
    elif found.stop == Stop.PAUSE:
        found.stop = Stop.RESTART
    _asked(found, by, "resume", "Resuming the job")


@in_tenant
def job_hold_renew(*, tenant: UUID, job: UUID) -> None:
    """The money stays held while the job waits or learns."""
    found = Job.objects.filter(id=job).exclude(state__in=ENDED).first()
    if found is not None and found.hold is not None:
        usage.hold_renew(tenant=tenant, hold=found.hold, expires_at=now() + HOLD_LIFE)


def usable_file(*, tenant: UUID, file: UUID, param: str) -> UUID:
    """The id of a file that may be trained on; raises NotFound, Invalid."""
    found = file_get(tenant=tenant, file=file)
    if found.purpose != "fine-tune":
        raise Invalid(f"{public('file', file)} has purpose {found.purpose!r}; upload it as 'fine-tune'.", param=param)
    return file


def _unfinished(job: UUID, verb: str) -> Job | None:
    """The job, locked; None if it is cancelled already; raises Invalid if it has ended otherwise."""
    found = Job.locked(id=job)
    if found is None:
        raise NotFound.of("job", public("ftjob", job))
    if found.state in (State.SUCCEEDED, State.FAILED) or (found.state == State.CANCELLED and verb != "cancelled"):
        raise Invalid(f"The job has {found.state} and cannot be {verb}.", code="job_ended")
    return found if found.state != State.CANCELLED else None


def _asked(job: Job, by: Principal, what: str, message: str) -> None:
    tell(job, message)
    job.save()
    audit(by.actor, f"job.{what}", job.id.hex)
    wake_worker()


def _estimate(job: Job) -> None:
    options = TrainingOptions.model_validate(job.options)
    rates = finished_rates(vertical=job.vertical, base_model=job.base_model, options=options)
    job.price_id = usage.price_current(unit=UNIT).id
    job.estimate_ms = estimate_ms(job.rows or 0, ms_per_row(rates, options))
    job.max_device_ms = cap_ms(job.estimate_ms)


def _refuse_too_large(job: Job) -> None:
    """Raises Invalid, before anything is held, for what no trainer's memory can take."""
    there, version = settings.ENV.trainer_memory_mb, cast(DatasetVersion, job.version)
    bases = TrainingOptions.model_validate(job.options).bases(job.base_model)
    largest = max(vertical(job.vertical).base_model(base).memory_mb for base in bases)
    needed = least_memory_mb(largest, version.rows, len(version.report["labels"]))
    if there and needed > there:
        raise Invalid(
            f"Learning from {version.rows:,} rows of {len(version.report['labels']):,} labels takes at least"
            f" {needed:,} MB of memory; a trainer has {there:,} MB. Give fewer rows or fewer labels.",
            code="memory", param="training_file",
        )  # fmt: skip


def _hold(job: Job) -> None:
    """Holds what is left of the cap; if the month's budget has not so much, the estimate; raises PaymentRequired."""
    # A job is held for after it has been estimated and priced.
    stamped, estimate = cast(PriceRow, job.price), cast(int, job.estimate_ms)
    price = Price(stamped.micro_usd, stamped.per_quantity)
    left = cast(int, job.max_device_ms) - job.earlier_ms
    if left <= 0:
        raise Invalid("All the device time of this job is used; start a new one.", code="device_time_used_up")
    try:
        job.hold = _place(job, price.ceil(left))
    except PaymentRequired:
        if left <= estimate:
            raise
        job.hold = _place(job, price.ceil(estimate))
        job.max_device_ms = job.earlier_ms + estimate


def _place(job: Job, amount: int) -> UUID:
    with transaction.atomic():
        return usage.hold_place(
            tenant=job.tenant_id, purpose=f"job:{job.id.hex}", amount_micro_usd=amount, expires_at=now() + HOLD_LIFE
        )


def _release(job: Job) -> None:
    if job.hold is not None:
        usage.hold_release(tenant=job.tenant_id, hold=job.hold)
        job.hold = None


def _queue(job: Job) -> None:
    job.state, job.queued_at, job.losses = State.QUEUED, now(), 0
    job.save()
    wake_worker()


def _fail(job: Job, error: TilthError) -> None:
    job.error = {"code": error.reason, "message": error.message, "param": error.param, **error.extra}
    job.state, job.finished_at = State.FAILED, now()
    tell(job, error.message, level="error")
    job.save()
