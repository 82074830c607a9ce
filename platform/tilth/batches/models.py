"""Batches with their state and progress; their answered chunks, append-only."""

from typing import ClassVar

from django.db import models
from django.db.models import Q

from tilth.batches.states import ENDED, Endpoint, State
from tilth.core.models import TenantForeignKey, TenantModel
from tilth.core.sealed import SealedJSON


class Batch(TenantModel):
    """Many predictions asked for at once: a file of requests, or of plain rows for one model."""

    input_file = TenantForeignKey("datasets.File", models.PROTECT, related_name="+")
    endpoint = models.CharField(max_length=40, choices=[(each.value, each.value) for each in Endpoint])
    rows = models.BooleanField()
    """The file holds plain rows for ``model``, not requests."""
    model = models.CharField(max_length=240, default="")
    """All lines are answered by one; of requests it is known when they were read."""
    columns = models.JSONField(null=True)
    """Of rows: role → column, as far as the customer said it."""
    metadata = models.JSONField(default=dict)
    output_expires_after_s = models.IntegerField(null=True)
    """Life of its result files, in seconds."""
    key = models.UUIDField(null=True)
    """The API key that asked: its cap covers the batch."""

    state = models.CharField(max_length=12, choices=[(s.value, s.value) for s in State], default=State.VALIDATING)
    ending = models.CharField(max_length=12, default="")
    """The state to end in, once it is being put together."""
    turn = models.IntegerField(default=0)
    """Rises whenever somebody begins a chunk or the end: a late one's writes name a smaller one and are refused."""
    worked_at = models.DateTimeField(null=True)
    """When its last chunk was begun; an organisation's batches take turns."""

    digest = models.CharField(max_length=80, default="")
    """Of the model that answers all of it."""
    price = models.ForeignKey("usage.Price", models.PROTECT, null=True, related_name="+")
    """As it was when the batch was made."""
    hold = models.UUIDField(null=True)
    """What is held for the chunk under way; usage owns it."""

    total = models.IntegerField(default=0)
    """Lines."""
    chunks = models.IntegerField(default=0)
    next_chunk = models.IntegerField(default=0)
    """Those before it are answered and billed."""
    completed = models.IntegerField(default=0)
    failed = models.IntegerField(default=0)
    answered_rows = models.BigIntegerField(default=0)
    answered_tokens = models.BigIntegerField(default=0)

    expires_at = models.DateTimeField()
    """End of its completion window."""
    in_progress_at = models.DateTimeField(null=True)
    cancelling_at = models.DateTimeField(null=True)
    finalizing_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    errors = SealedJSON(null=True)
    """[{code, message, param, line}] of a failed one."""
    output_file = TenantForeignKey("datasets.File", models.PROTECT, null=True, related_name="+")
    error_file = TenantForeignKey("datasets.File", models.PROTECT, null=True, related_name="+")

    class Meta(TenantModel.Meta):
        constraints: ClassVar = [
            *TenantModel.Meta.constraints,
            models.CheckConstraint(
                condition=~Q(state__in=ENDED) | Q(finished_at__isnull=False, hold=None),
                name="ended_batches_hold_nothing",
            ),
            models.CheckConstraint(condition=Q(next_chunk__lte=models.F("chunks")), name="batch_goes_to_its_end"),
        ]
        indexes: ClassVar = [
            models.Index(fields=["tenant_id", "-id"], name="batches_newest_first"),
            models.Index(fields=["tenant_id", "worked_at"], name="batches_to_do", condition=~Q(state__in=ENDED)),
        ]


class Chunk(TenantModel):
    """Some lines of a batch that were answered and billed together, once."""

    batch = TenantForeignKey(Batch, models.PROTECT, related_name="+")
    number = models.IntegerField()
    """From 0."""
    path = models.CharField(max_length=300)
    """Of its answers, below TILTH_ARTIFACTS."""
    completed = models.IntegerField()
    failed = models.IntegerField()
    quantity = models.BigIntegerField()
    """Billed, in units of the batch's price."""

    class Meta(TenantModel.Meta):
        constraints: ClassVar = [
            *TenantModel.Meta.constraints,
            models.UniqueConstraint(fields=["tenant_id", "batch", "number"], name="chunk_once"),
        ]
