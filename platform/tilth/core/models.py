"""The base of every tenant's table: a tenant, a time-ordered id, a manager that fails closed, composite references."""

from typing import Any, Self, TypeVar

from django.db import models

from tilth.core.clock import now
from tilth.core.ids import uuid7
from tilth.core.scope import current_tenant
from tilth.core.sealed import SealedJSON

M = TypeVar("M", bound=models.Model)


class TenantManager(models.Manager[M]):
    """Only rows of the open scope's tenant; outside a scope it raises NoTenant."""

    def get_queryset(self) -> models.QuerySet[M]:
        """Says WHERE tenant_id beside what row-level security says, so that indexes are used."""
        return super().get_queryset().filter(tenant_id=current_tenant())


class TenantModel(models.Model):
    """A row of one tenant. Subclasses list TenantModel.Meta constraints through ``tenant_constraints``."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant_id = models.UUIDField(default=current_tenant, editable=False)
    created_at = models.DateTimeField(default=now, editable=False)

    objects = TenantManager()
    unscoped = models.Manager()
    """The loud escape: for the system role's reads only; row-level security still holds."""

    class Meta:
        abstract = True
        base_manager_name = "unscoped"
        default_manager_name = "objects"
        constraints = [models.UniqueConstraint(fields=["tenant_id", "id"], name="%(app_label)s_%(class)s_key")]

    @classmethod
    def locked(cls, **where: Any) -> Self | None:
        """The row, locked for this transaction; None if there is none."""
        return cls.objects.select_for_update().filter(**where).first()


class TenantForeignKey(models.ForeignKey):  # type: ignore[type-arg]
    """A reference inside a tenant: the database's constraint is (tenant_id, x_id), made by core.rls.TenantTable."""

    def __init__(self, to: Any, on_delete: Any, **kwargs: Any) -> None:
        kwargs["db_constraint"] = False
        super().__init__(to, on_delete, **kwargs)


class FirstReply(TenantModel):
    """The first reply to a POST, so that a retry of the same request gets it again and does nothing."""

    request = models.CharField(max_length=64)
    """sha256 over who asked, method, path and body."""
    key = models.CharField(max_length=255, default="")
    """The Idempotency-Key, if one was sent."""
    body = SealedJSON()
    """It may hold a key or a token that is shown once."""

    class Meta(TenantModel.Meta):
        indexes = [
            models.Index(fields=["tenant_id", "request"], name="reply_by_request"),
            models.Index(fields=["tenant_id", "key"], name="reply_by_key", condition=~models.Q(key="")),
        ]
