"""The field of a request that says how free columns are read."""

from typing import Any

from rest_framework import serializers

from tilth.datasets.features import KINDS, unknown_kind


class KindField(serializers.ChoiceField):
    """How a column is read; what is no kind is told with the nearest one."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(KINDS, **kwargs)

    def to_internal_value(self, data: Any) -> Any:
        """As sent."""
        if data not in KINDS:
            raise serializers.ValidationError(unknown_kind(data))
        return data


class KindsField(serializers.DictField):
    """Column → kind."""

    child = KindField()

    def __init__(self, **kwargs: Any) -> None:
        told = (
            "Column → how it is read, where that is not as the report says; for verticals that learn from all columns."
        )
        super().__init__(**{"allow_null": True, "help_text": told, **kwargs})
