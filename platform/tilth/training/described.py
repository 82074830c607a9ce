"""How OpenAPI describes what shapes.py makes: jobs, events and checkpoints."""

from typing import Any

from drf_spectacular.extensions import OpenApiSerializerFieldExtension
from rest_framework import serializers

from tilth.training.shapes import AUTO


class NumberOrAutoDescribed(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]
    """``"auto"`` or a number between two others."""

    target_class = "tilth.training.orders.NumberOrAuto"

    def map_serializer_field(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        """Two alternatives."""
        field = self.target
        kind = "integer" if field.kind is int else "number"
        number = {"type": kind, "minimum": field.low, "maximum": field.high}
        return {"oneOf": [number, {"type": "string", "enum": [AUTO]}]}


class Job(serializers.Serializer[Any]):
    """``fine_tuning.job``."""

    id = serializers.CharField()
    object = serializers.CharField()
    created_at = serializers.IntegerField()
    finished_at = serializers.IntegerField(allow_null=True)
    model = serializers.CharField()
    fine_tuned_model = serializers.CharField(allow_null=True)
    organization_id = serializers.CharField()
    status = serializers.ChoiceField(["validating_files", "queued", "running", "succeeded", "failed", "cancelled"])
    error = serializers.JSONField(allow_null=True)
    hyperparameters = serializers.JSONField()
    method = serializers.JSONField()
    training_file = serializers.CharField()
    validation_file = serializers.CharField(allow_null=True)
    result_files = serializers.ListField(child=serializers.CharField())
    seed = serializers.IntegerField()
    trained_tokens = serializers.IntegerField(allow_null=True)
    estimated_finish = serializers.IntegerField(allow_null=True)
    integrations = serializers.ListField(child=serializers.JSONField())
    metadata = serializers.DictField(child=serializers.CharField())
    vertical = serializers.CharField()
    suffix = serializers.CharField(allow_null=True)
    paused = serializers.BooleanField()
    stopping = serializers.CharField(allow_null=True)
    queue_position = serializers.IntegerField(allow_null=True)
    estimate = serializers.JSONField(allow_null=True)
    progress = serializers.FloatField()
    attempt = serializers.IntegerField()
    device_ms = serializers.IntegerField()
    dataset = serializers.CharField(allow_null=True)
    test_file = serializers.CharField(allow_null=True)


class JobEvent(serializers.Serializer[Any]):
    """``fine_tuning.job.event``."""

    id = serializers.CharField()
    object = serializers.CharField()
    created_at = serializers.IntegerField()
    level = serializers.ChoiceField(["info", "warn", "error"])
    message = serializers.CharField()
    type = serializers.ChoiceField(["message", "metrics"])
    data = serializers.JSONField(allow_null=True)  # type: ignore[assignment]  # a field of ours


class JobCheckpoint(serializers.Serializer[Any]):
    """``fine_tuning.job.checkpoint``."""

    id = serializers.CharField()
    object = serializers.CharField()
    created_at = serializers.IntegerField()
    fine_tuned_model_checkpoint = serializers.CharField()
    fine_tuning_job_id = serializers.CharField()
    step_number = serializers.IntegerField()
    metrics = serializers.JSONField()
