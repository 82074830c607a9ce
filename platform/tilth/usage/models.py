"""What was used, what is held and what is owed: events and ledger append-only, balances folded from them."""

from typing import ClassVar

from django.db import models
from django.db.models import F, Q

from tilth.core.clock import now
from tilth.core.ids import uuid7
from tilth.core.models import TenantForeignKey, TenantModel


class Price(models.Model):
    """The list price of a unit from a moment on, the same for all; rows are never changed."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    created_at = models.DateTimeField(default=now, editable=False)
    unit = models.CharField(max_length=80)
    """``training.device_ms``, ``prediction.tokens`` …"""
    title = models.CharField(max_length=120)
    micro_usd = models.BigIntegerField()
    per_quantity = models.BigIntegerField()
    effective_from = models.DateTimeField(default=now)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["unit", "effective_from"], name="one_price_at_a_time"),
            models.CheckConstraint(condition=Q(micro_usd__gte=0, per_quantity__gt=0), name="price_is_sane"),
        ]


class UsageEvent(TenantModel):
    """One use of something billable, recorded once for ever; zero is a quantity like any other."""

    source = models.CharField(max_length=20)
    """Who counted: ``gateway``, ``training``."""
    event_id = models.CharField(max_length=120)
    """The source's own id of what happened; (tenant, source, event_id) is unique."""
    price = models.ForeignKey(Price, models.PROTECT, related_name="+", db_index=False, db_constraint=False)
    """Prices cannot be deleted, so the database need not look whether this one is there."""
    quantity = models.BigIntegerField()
    """In units of the price."""
    subject = models.CharField(max_length=240)
    """The model that answered, or the job that was run."""
    key = models.UUIDField(null=True)
    """The API key that asked."""
    occurred_at = models.DateTimeField()
    data = models.JSONField(default=dict)

    class Meta(TenantModel.Meta):
        constraints: ClassVar = [
            *TenantModel.Meta.constraints,
            models.UniqueConstraint(fields=["tenant_id", "source", "event_id"], name="usage_once"),
            models.CheckConstraint(condition=Q(quantity__gte=0), name="usage_is_not_negative"),
        ]
        indexes: ClassVar = [models.Index(fields=["tenant_id", "occurred_at"], name="usage_by_time")]


class Budget(TenantModel):
    """What may be spent in a month, by the organisation (key is null) or by one capped key."""

    month = models.DateField()
    """Its first day, UTC."""
    key = models.UUIDField(null=True)
    limit_micro_usd = models.BigIntegerField()
    held_micro_usd = models.BigIntegerField(default=0)
    """Always the sum of the holds that point here."""
    spent_micro_usd = models.BigIntegerField(default=0)
    """Sum over prices of the whole micro-USD of the month's quantity."""

    class Meta(TenantModel.Meta):
        constraints: ClassVar = [
            *TenantModel.Meta.constraints,
            models.UniqueConstraint(
                fields=["tenant_id", "month", "key"], nulls_distinct=False, name="budget_per_month"
            ),
            models.CheckConstraint(condition=Q(held_micro_usd__gte=0, spent_micro_usd__gte=0), name="budget_is_sane"),
        ]


class Tally(TenantModel):
    """The month's quantity at one price: rounding happens on this sum, never on a request."""

    budget = TenantForeignKey(Budget, models.PROTECT, related_name="+", db_index=False)
    price = models.ForeignKey(Price, models.PROTECT, related_name="+", db_index=False)
    quantity = models.BigIntegerField()

    class Meta(TenantModel.Meta):
        constraints: ClassVar = [
            *TenantModel.Meta.constraints,
            models.UniqueConstraint(fields=["tenant_id", "budget", "price"], name="one_tally_per_price"),
        ]


class Hold(TenantModel):
    """Part of a budget kept for something under way. Deleting the row is the only way to give it back."""

    budget = TenantForeignKey(Budget, models.PROTECT, related_name="+", db_index=False)
    key_budget = TenantForeignKey(Budget, models.PROTECT, null=True, related_name="+", db_index=False)
    """Of the key that asked, if it has a cap: the same amount is held there too."""
    purpose = models.CharField(max_length=80)
    amount_micro_usd = models.BigIntegerField()
    expires_at = models.DateTimeField()
    """When it is swept if nobody came back: what was under way died."""

    class Meta(TenantModel.Meta):
        constraints: ClassVar = [
            *TenantModel.Meta.constraints,
            models.CheckConstraint(condition=Q(amount_micro_usd__gte=0), name="hold_is_not_negative"),
        ]
        indexes: ClassVar = [models.Index(fields=["expires_at"], name="holds_by_expiry")]


class PendingFold(TenantModel):
    """What the fold has not seen: an event to count, a hold to give back, or both at once."""

    event = models.UUIDField(null=True)
    """Written by the same statement as the event, which cannot be deleted: a foreign key would only cost time."""
    hold = models.UUIDField(null=True)
    """May be swept already; the event counts all the same."""


class LedgerEntry(TenantModel):
    """One line of a posting; the lines of each posting sum to zero, which the database checks at commit."""

    posting = models.UUIDField()
    account = models.CharField(max_length=100)
    """``customer`` (what they owe), ``revenue:<unit>``."""
    amount_micro_usd = models.BigIntegerField()
    price = models.ForeignKey(Price, models.PROTECT, related_name="+", db_index=False)
    month = models.DateField()

    class Meta(TenantModel.Meta):
        indexes: ClassVar = [
            models.Index(fields=["tenant_id", "posting"], name="ledger_by_posting"),
            models.Index(fields=["tenant_id", "account", "month"], name="ledger_by_account"),
        ]


class DeviceSpan(TenantModel):
    """Time that an attempt held a share of a device; no two spans share a slot of a device at one time."""

    job = models.UUIDField()
    attempt = models.IntegerField()
    device = models.CharField(max_length=120)
    share_from = models.IntegerField()
    """Slots [share_from, share_to) of 1000."""
    share_to = models.IntegerField()
    price = models.ForeignKey(Price, models.PROTECT, related_name="+", db_index=False)
    opened_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    """Of the last heartbeat, opened_at + device_ms; grows until the span is closed."""
    device_ms = models.BigIntegerField(default=0)
    skipped_ms = models.BigIntegerField(default=0)
    """What the trainer counted before opened_at, when the device was another's by clocks that differ a little."""
    closed_at = models.DateTimeField(null=True)
    reason = models.CharField(max_length=40, default="")

    class Meta(TenantModel.Meta):
        constraints: ClassVar = [
            *TenantModel.Meta.constraints,
            models.UniqueConstraint(fields=["tenant_id", "job", "attempt"], name="one_span_per_attempt"),
            models.CheckConstraint(
                condition=Q(share_from__gte=0, share_to__lte=1000, share_to__gt=F("share_from")), name="span_is_a_share"
            ),
            models.CheckConstraint(condition=Q(device_ms__gte=0, ends_at__gte=F("opened_at")), name="span_goes_on"),
        ]
        indexes: ClassVar = [models.Index(fields=["device", "ends_at"], name="spans_by_device")]
