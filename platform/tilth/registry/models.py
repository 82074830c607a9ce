"""Fine-tuned models: which bytes, from which job and rows, how good."""

from typing import ClassVar

from django.db import models

from tilth.contract.messages import ServedBy
from tilth.core.models import TenantForeignKey, TenantModel
from tilth.core.sealed import SealedJSON, SealedText


class Model(TenantModel):
    """A fine-tuned model; its digest names exactly its bytes."""

    name = models.CharField(max_length=200)
    """``ft:<base>:<organisation>:<suffix>:<8 hex>``."""
    job = TenantForeignKey("training.Job", models.PROTECT, related_name="+")
    version = TenantForeignKey("datasets.DatasetVersion", models.PROTECT, related_name="+")
    version_sha256 = models.CharField(max_length=64)
    vertical = models.CharField(max_length=60)
    base_model = models.CharField(max_length=120)
    base_revision = models.CharField(max_length=120)
    path = models.CharField(max_length=300)
    """Folder below TILTH_ARTIFACTS, ends with a slash."""
    digest = models.CharField(max_length=80)
    rung = models.CharField(max_length=20)
    """Of the ladder's candidates the one that learned it."""
    served_by = models.CharField(
        max_length=20, choices=[(kind.value, kind.value) for kind in ServedBy], default=ServedBy.STACKED.value
    )
    metrics = models.JSONField(default=dict)
    report = SealedJSON(default=dict)
    card = SealedText(default="")
    """The model card, Markdown."""
    deleted_at = models.DateTimeField(null=True)

    class Meta(TenantModel.Meta):
        constraints: ClassVar = [
            *TenantModel.Meta.constraints,
            models.UniqueConstraint(fields=["tenant_id", "name"], name="model_name_once"),
            models.UniqueConstraint(fields=["tenant_id", "job"], name="one_model_per_job"),
        ]
