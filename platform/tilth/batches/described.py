"""How OpenAPI describes what shapes.py makes."""

from typing import Any

from rest_framework import serializers

from tilth.batches.states import Endpoint, State


class Batch(serializers.Serializer[Any]):
    """``batch``."""

    id = serializers.CharField()
    object = serializers.CharField()
    endpoint = serializers.ChoiceField([each.value for each in Endpoint])
    model = serializers.CharField(allow_null=True)
    errors = serializers.JSONField(allow_null=True)  # type: ignore[assignment]  # a field of ours
    input_file_id = serializers.CharField()
    completion_window = serializers.CharField()
    status = serializers.ChoiceField([state.value for state in State])
    output_file_id = serializers.CharField(allow_null=True)
    error_file_id = serializers.CharField(allow_null=True)
    created_at = serializers.IntegerField()
    in_progress_at = serializers.IntegerField(allow_null=True)
    expires_at = serializers.IntegerField()
    finalizing_at = serializers.IntegerField(allow_null=True)
    cancelling_at = serializers.IntegerField(allow_null=True)
    completed_at = serializers.IntegerField(allow_null=True)
    failed_at = serializers.IntegerField(allow_null=True)
    expired_at = serializers.IntegerField(allow_null=True)
    cancelled_at = serializers.IntegerField(allow_null=True)
    request_counts = serializers.DictField(child=serializers.IntegerField())
    usage = serializers.JSONField()
    metadata = serializers.DictField(child=serializers.CharField())
    rows = serializers.BooleanField(help_text="The file holds plain rows, not requests")
    answered_rows = serializers.IntegerField()
    columns = serializers.DictField(child=serializers.CharField(), allow_null=True)
    digest = serializers.CharField(allow_null=True)
    price = serializers.JSONField(allow_null=True)
