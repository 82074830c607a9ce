"""Organisations and who may do what in them."""

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import F, Q

from tilth.core.models import TenantForeignKey, TenantModel
from tilth.tenants.scopes import Role

ROLES = [(role.value, role.value) for role in Role]


class Organisation(TenantModel):
    """A tenant: its id is the tenant's id."""

    name = models.CharField(max_length=100)
    slug = models.SlugField(max_length=40)
    """In the names of its models, ``ft:<base>:<slug>:…``; not unique, since uniqueness would tell of others."""

    class Meta(TenantModel.Meta):
        constraints: ClassVar = [
            *TenantModel.Meta.constraints,
            models.CheckConstraint(condition=Q(id=F("tenant_id")), name="organisation_is_its_tenant"),
        ]


class Membership(TenantModel):
    """A user's role in an organisation."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    role = models.CharField(max_length=16, choices=ROLES)

    class Meta(TenantModel.Meta):
        constraints: ClassVar = [
            *TenantModel.Meta.constraints,
            models.UniqueConstraint(fields=["tenant_id", "user"], name="one_membership_per_user"),
        ]


class Invitation(TenantModel):
    """An email address asked to join; the token is in the link, its hash is here."""

    email = models.EmailField()
    role = models.CharField(max_length=16, choices=ROLES)
    token_sha256 = models.CharField(max_length=64, db_index=True)
    expires_at = models.DateTimeField()
    accepted_at = models.DateTimeField(null=True)


class ApiKey(TenantModel):
    """A key of an organisation; the secret itself is never stored."""

    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=16)
    last4 = models.CharField(max_length=4)
    secret_sha256 = models.CharField(max_length=64, db_index=True)
    scopes = models.JSONField()
    expires_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)
    last_used_at = models.DateTimeField(null=True)
    monthly_cap_micro_usd = models.BigIntegerField(null=True)
    replaces = TenantForeignKey("self", models.PROTECT, null=True, related_name="+")
    """The key that this one was rotated from; both live until the old one expires."""


class AuditEntry(TenantModel):
    """Who did what to which object; append-only."""

    actor = models.CharField(max_length=80)
    """``user:<id>``, ``key:<id>`` or ``system``."""
    action = models.CharField(max_length=60)
    object = models.CharField(max_length=120)
    detail = models.JSONField(default=dict)

    class Meta(TenantModel.Meta):
        indexes: ClassVar = [models.Index(fields=["tenant_id", "-created_at"], name="audit_by_time")]
