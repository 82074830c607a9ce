"""Deployments: which model answers under which name."""

from typing import ClassVar

from django.db import models
from django.db.models import Q

from tilth.core.models import TenantForeignKey, TenantModel


class Deployment(TenantModel):
    """A name that answers with a model until it is deleted."""

    name = models.CharField(max_length=240)
    model = TenantForeignKey("registry.Model", models.PROTECT, related_name="+")
    deterministic = models.BooleanField(default=False, db_default=False)
    """Each row is computed alone: its answer is the same to the bit whoever else asks; slower."""
    loaded_at = models.DateTimeField(null=True)
    """When the worker had it brought into a slot; hosts load on demand too."""
    deleted_at = models.DateTimeField(null=True)

    class Meta(TenantModel.Meta):
        constraints: ClassVar = [
            *TenantModel.Meta.constraints,
            models.UniqueConstraint(
                fields=["tenant_id", "name"], condition=Q(deleted_at=None), name="one_live_deployment_per_name"
            ),
        ]
