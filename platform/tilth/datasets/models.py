"""Files as uploaded, checks of them under a mapping, and frozen versions, which nobody can change."""

from typing import ClassVar

from django.db import models
from django.db.models import Q

from tilth.core.models import TenantForeignKey, TenantModel
from tilth.core.sealed import SealedJSON, SealedText

PURPOSES = ("fine-tune", "assistants", "batch", "evals", "user_data", "vision")
"""OpenAI's purposes of what customers upload; only files for jobs and batches are read by anybody."""
RESULTS, ANSWERS = "fine-tune-results", "batch_output"
"""Of what a job and a batch leave."""


class File(TenantModel):
    """An uploaded file, never changed. Its bytes go when it is deleted or expires; the row stays."""

    class Status(models.TextChoices):
        UPLOADED = "uploaded"
        PROCESSED = "processed"
        ERROR = "error"

    purpose = models.CharField(max_length=20, choices=[(p, p) for p in (*PURPOSES, RESULTS, ANSWERS)])
    filename = models.CharField(max_length=255)
    bytes = models.BigIntegerField(default=0)
    sha256 = models.CharField(max_length=64, default="")
    path = models.CharField(max_length=300, default="")
    """Below TILTH_ARTIFACTS."""
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.UPLOADED)
    status_details = SealedText(default="")
    report = SealedJSON(null=True)
    """What the check found: rows, columns, inferred roles, problems, preview (datasets/report.py)."""
    expires_at = models.DateTimeField(null=True)
    deleted_at = models.DateTimeField(null=True)

    class Meta(TenantModel.Meta):
        indexes = [
            models.Index(fields=["tenant_id", "-id"], name="files_newest_first", condition=Q(deleted_at=None)),
            models.Index(fields=["expires_at"], name="files_that_expire", condition=Q(deleted_at=None)),
        ]


class Upload(TenantModel):
    """A file on its way in parts, in any order, until it is completed, cancelled or an hour old."""

    class Status(models.TextChoices):
        PENDING = "pending"
        COMPLETED = "completed"
        CANCELLED = "cancelled"
        EXPIRED = "expired"

    purpose = models.CharField(max_length=20, choices=[(p, p) for p in PURPOSES])
    filename = models.CharField(max_length=255)
    bytes = models.BigIntegerField()
    """Of the whole file, as said when it was opened."""
    expires_after_s = models.IntegerField(null=True)
    """Life of the file, in seconds."""
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.PENDING)
    expires_at = models.DateTimeField()
    order = models.CharField(max_length=64, default="")
    """sha256 over the ids of the parts that the file was made of."""
    file = TenantForeignKey(File, models.PROTECT, null=True, related_name="+")

    class Meta(TenantModel.Meta):
        indexes = [
            models.Index(fields=["expires_at"], name="uploads_that_expire", condition=Q(status="pending")),
        ]
        constraints: ClassVar = [
            *TenantModel.Meta.constraints,
            models.CheckConstraint(
                condition=Q(status="completed", file__isnull=False) | (~Q(status="completed") & Q(file__isnull=True)),
                name="completed_has_a_file",
            ),
        ]


class UploadPart(TenantModel):
    """A part of a pending upload; it goes when the upload is closed."""

    upload = TenantForeignKey(Upload, models.PROTECT, related_name="parts")
    bytes = models.BigIntegerField()
    path = models.CharField(max_length=300)
    """Below TILTH_ARTIFACTS."""

    class Meta(TenantModel.Meta):
        indexes = [models.Index(fields=["tenant_id", "upload"], name="parts_of_an_upload")]


class DatasetVersion(TenantModel):
    """Checked rows, frozen as Parquet: line, split and one column for each role. The app may not update this table."""

    recipe = models.CharField(max_length=64)
    """sha256 over all that determines the rows: the files' bytes, the schema, the mapping, the options."""
    training_file = TenantForeignKey(File, models.PROTECT, related_name="+")
    validation_file = TenantForeignKey(File, models.PROTECT, null=True, related_name="+")
    test_file = TenantForeignKey(File, models.PROTECT, null=True, related_name="+")
    vertical = models.CharField(max_length=60)
    columns = models.JSONField()
    """Role → column of the training file."""
    kinds = models.JSONField(default=dict)
    """Free column → how it is read, those that are ignored left out."""
    options = models.JSONField()
    path = models.CharField(max_length=300)
    """Below TILTH_ARTIFACTS."""
    sha256 = models.CharField(max_length=64)
    bytes = models.BigIntegerField()
    rows = models.IntegerField()
    splits = models.JSONField()
    """Rows of train, validation and test."""
    report = SealedJSON()

    class Meta(TenantModel.Meta):
        constraints: ClassVar = [
            *TenantModel.Meta.constraints,
            models.UniqueConstraint(fields=["tenant_id", "recipe"], name="one_version_of_a_recipe"),
        ]


class Check(TenantModel):
    """Files to be checked under a mapping, and frozen if asked; the worker answers."""

    class State(models.TextChoices):
        PENDING = "pending"
        PASSED = "passed"
        REFUSED = "refused"

    recipe = models.CharField(max_length=64)
    training_file = TenantForeignKey(File, models.PROTECT, related_name="+")
    validation_file = TenantForeignKey(File, models.PROTECT, null=True, related_name="+")
    test_file = TenantForeignKey(File, models.PROTECT, null=True, related_name="+")
    vertical = models.CharField(max_length=60)
    columns = models.JSONField(null=True)
    """Role → column, as far as it was said."""
    kinds = models.JSONField(null=True)
    """Free column → kind, as far as it was said."""
    options = models.JSONField()
    freeze = models.BooleanField()
    state = models.CharField(max_length=8, choices=State.choices, default=State.PENDING)
    report = SealedJSON(null=True)
    error = SealedJSON(null=True)
    """{code, message, param} of a refusal."""
    version = TenantForeignKey(DatasetVersion, models.PROTECT, null=True, related_name="+")

    class Meta(TenantModel.Meta):
        constraints: ClassVar = [
            *TenantModel.Meta.constraints,
            models.UniqueConstraint(fields=["tenant_id", "recipe", "freeze"], name="one_check_of_a_recipe"),
            models.CheckConstraint(
                condition=Q(freeze=False) | ~Q(state="passed") | Q(version__isnull=False), name="frozen_has_a_version"
            ),
        ]
