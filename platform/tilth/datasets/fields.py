"""The fields of a request that say how free columns are read, and how rows are split."""

from typing import Any

from rest_framework import serializers

from tilth.datasets.features import KINDS, unknown_kind
from tilth.datasets.splits import HOWS


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


class SplitField(serializers.ChoiceField):
    """How rows are split, where that is not as the report says."""

    def __init__(self, **kwargs: Any) -> None:
        told = "random; grouped: rows of one group on one side; time: the newest rows for test. Left out: the best one."
        super().__init__(HOWS, **{"allow_null": True, "help_text": told, **kwargs})
