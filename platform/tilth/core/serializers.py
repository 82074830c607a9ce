"""The base of what comes in: a field that nobody knows is refused by its name."""

from typing import Any

from rest_framework import serializers
from rest_framework.request import Request


class Strict(serializers.Serializer[Any]):
    """A serializer that refuses unknown fields."""

    def to_internal_value(self, data: Any) -> Any:
        """Names the first unknown field and those that are known."""
        if isinstance(data, dict) and (unknown := sorted(set(data) - set(self.fields))):
            known = ", ".join(sorted(self.fields))
            raise serializers.ValidationError({unknown[0]: f"Unknown field {unknown[0]!r}; known are: {known}."})
        return super().to_internal_value(data)


def valid(shape: type[serializers.Serializer[Any]], request: Request) -> dict[str, Any]:
    """The checked body of a request."""
    body = shape(data=request.data)
    body.is_valid(raise_exception=True)
    return dict(body.validated_data)


def valid_query(shape: type[serializers.Serializer[Any]], request: Request) -> dict[str, Any]:
    """The checked query of a request."""
    query = shape(data=request.query_params)
    query.is_valid(raise_exception=True)
    return dict(query.validated_data)
