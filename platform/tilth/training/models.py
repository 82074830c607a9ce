"""Jobs with their state, attempts and lease; their events and checkpoints, append-only."""

from typing import ClassVar

from django.db import models
from django.db.models import Q

from tilth.core.models import TenantForeignKey, TenantModel
from tilth.core.sealed import SealedJSON, SealedText
from tilth.training.states import ACTIVE, ENDED, State, Stop


class Job(TenantModel):
    """A fine-tuning job. Whoever writes on behalf of a trainer names the attempt; a stale one is refused."""

    suffix = models.CharField(max_length=64, default="")
    vertical = models.CharField(max_length=60)
    base_model = models.CharField(max_length=120)
    training_file = TenantForeignKey("datasets.File", models.PROTECT, related_name="+")
    validation_file = TenantForeignKey("datasets.File", models.PROTECT, null=True, related_name="+")
    test_file = TenantForeignKey("datasets.File", models.PROTECT, null=True, related_name="+")
    columns = models.JSONField(null=True)
    """Role → column, as far as the customer said it."""
    kinds = models.JSONField(null=True)
    """Free column → how it is read, as far as the customer said it."""
    split = models.CharField(max_length=10, null=True)
    """How rows are split, if the customer said it."""
    accept_bad_rows = models.BooleanField(default=False)
    options = models.JSONField(default=dict)
    """TrainingOptions of the contract."""
    asked = models.JSONField(default=dict)
    """``method`` and ``hyperparameters`` as the customer sent them, to be echoed."""
    metadata = models.JSONField(default=dict)
    version = TenantForeignKey("datasets.DatasetVersion", models.PROTECT, null=True, related_name="+")

    state = models.CharField(max_length=12, choices=[(s.value, s.value) for s in State], default=State.VALIDATING)
    stop = models.CharField(max_length=8, choices=[(s.value, s.value) for s in Stop], default=Stop.NONE)
    attempt = models.IntegerField(default=0)
    """Number of the newest attempt; rises with each lease, so a late trainer's writes name a smaller one."""
    lease_until = models.DateTimeField(null=True)
    losses = models.IntegerField(default=0)
    """Attempts lost since the last new checkpoint."""
    last_seq = models.IntegerField(default=0)
    """Of the newest attempt's stored events."""
    event_count = models.IntegerField(default=0)

    queued_at = models.DateTimeField(null=True)
    leased_at = models.DateTimeField(null=True)
    dispatched_at = models.DateTimeField(null=True)
    """When the data plane acknowledged the newest attempt."""
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    rows = models.IntegerField(null=True)
    price = models.ForeignKey("usage.Price", models.PROTECT, null=True, related_name="+")
    """Of a device-millisecond, stamped when the job was queued first."""
    estimate_ms = models.BigIntegerField(null=True)
    max_device_ms = models.BigIntegerField(null=True)
    """Device time that all attempts together may use."""
    hold = models.UUIDField(null=True)
    """What is held of the month's budget while the job may run; usage owns it."""
    earlier_ms = models.BigIntegerField(default=0)
    """Device time of ended attempts."""
    attempt_ms = models.BigIntegerField(default=0)
    """Device time of the newest attempt so far."""

    progress = models.FloatField(default=0)
    eta_s = models.FloatField(null=True)
    trained_tokens = models.BigIntegerField(null=True)
    error = SealedJSON(null=True)
    """{code, message, param} of a failed job."""
    result_file = TenantForeignKey("datasets.File", models.PROTECT, null=True, related_name="+")
    """Its metrics as CSV, once it has succeeded."""
    leaderboard_file = TenantForeignKey("datasets.File", models.PROTECT, null=True, related_name="+")
    """Its candidates as CSV."""
    tensorboard_file = TenantForeignKey("datasets.File", models.PROTECT, null=True, related_name="+")
    """Its metrics as TensorBoard's event files, one for each candidate, in a zip."""
    fine_tuned_model = models.CharField(max_length=200, null=True)

    class Meta(TenantModel.Meta):
        constraints: ClassVar = [
            *TenantModel.Meta.constraints,
            models.CheckConstraint(
                condition=~Q(state__in=ACTIVE) | Q(attempt__gte=1, lease_until__isnull=False),
                name="active_jobs_have_a_lease",
            ),
            models.CheckConstraint(
                condition=~Q(state__in=ENDED) | Q(finished_at__isnull=False, hold=None), name="ended_jobs_hold_nothing"
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["tenant_id", "-created_at"], name="jobs_by_time"),
            models.Index(fields=["state", "queued_at"], name="jobs_to_do", condition=~Q(state__in=ENDED)),
        ]


class Event(TenantModel):
    """One line of a job's story: a trainer's (attempt ≥ 1) or our own (attempt 0); stored once."""

    job = TenantForeignKey(Job, models.PROTECT, related_name="+")
    number = models.IntegerField()
    """Order within the job, from 1."""
    attempt = models.IntegerField()
    seq = models.IntegerField()
    at = models.DateTimeField()
    kind = models.CharField(max_length=20)
    level = models.CharField(max_length=5, default="info")
    message = SealedText(default="")
    data = SealedJSON(default=dict)

    class Meta(TenantModel.Meta):
        constraints: ClassVar = [
            *TenantModel.Meta.constraints,
            models.UniqueConstraint(fields=["tenant_id", "job", "attempt", "seq"], name="event_once"),
            models.UniqueConstraint(fields=["tenant_id", "job", "number"], name="event_order"),
        ]


class Checkpoint(TenantModel):
    """A place to go on from; the next attempt resumes from the newest."""

    job = TenantForeignKey(Job, models.PROTECT, related_name="+")
    attempt = models.IntegerField()
    step = models.IntegerField()
    rung = models.CharField(max_length=20)
    path = models.CharField(max_length=300)
    """Folder below TILTH_ARTIFACTS, ends with a slash."""
    digest = models.CharField(max_length=80)
    metrics = models.JSONField(default=dict)

    class Meta(TenantModel.Meta):
        constraints: ClassVar = [
            *TenantModel.Meta.constraints,
            models.UniqueConstraint(fields=["tenant_id", "job", "attempt", "step"], name="checkpoint_once"),
        ]
