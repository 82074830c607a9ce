"""The base of what comes in: a field that nobody knows is refused by its name, and JSON's types are not converted."""

from datetime import date
from typing import Any

from django.core.validators import MaxValueValidator, MinValueValidator
from rest_framework import serializers
from rest_framework.request import Request

DAYS = [MinValueValidator(date(2000, 1, 1)), MaxValueValidator(date(2999, 12, 31))]
"""Days with which one can count on in both directions."""
INT64_MAX = 2**63 - 1


TYPES: dict[type[Any], tuple[str, tuple[type, ...]]] = {
    serializers.CharField: ("a string", (str,)),
    serializers.ChoiceField: ("a string", (str,)),
    serializers.DateTimeField: ("a string", (str,)),
    serializers.BooleanField: ("true or false", (bool,)),
    serializers.IntegerField: ("a whole number", (int,)),
    serializers.FloatField: ("a number", (int, float)),
}
"""What a field takes: DRF would read 7 as "7", "yes" as true and "nan" as a number."""


class Strict(serializers.Serializer[Any]):
    """A serializer that refuses unknown fields and values of another JSON type."""

    def to_internal_value(self, data: Any) -> Any:
        """Names the first unknown field and those that are known."""
        if isinstance(data, dict) and (unknown := sorted(set(data) - set(self.fields))):
            known = ", ".join(sorted(self.fields))
            raise serializers.ValidationError({unknown[0]: f"Unknown field {unknown[0]!r}; known are: {known}."})
        for name, field in self.fields.items():
            if isinstance(data, dict) and name in data:
                _refuse_type(field, data[name], name)
        return super().to_internal_value(data)


def _refuse_type(field: Any, value: Any, name: str) -> None:
    if value is None:
        return
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in inside if isinstance(field, serializers.ListField | serializers.DictField) else ():
        _refuse_type(field.child, each, name)
    what, kinds = next((TYPES[kind] for kind in type(field).__mro__ if kind in TYPES), ("", ()))
    if kinds and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
        raise serializers.ValidationError({name: f"Must be {what}; found {str(value)[:100]!r}."})


def valid(shape: type[serializers.Serializer[Any]], request: Request) -> dict[str, Any]:
    """The checked body of a request."""
    body = shape(data=request.data)
    body.is_valid(raise_exception=True)
    return dict(body.validated_data)


def valid_query(shape: type[serializers.Serializer[Any]], request: Request) -> dict[str, Any]:
    """The checked query of a request."""
    query = shape(data=request.query_params.dict())  # as a form, an empty value would count as none
    query.is_valid(raise_exception=True)
    return dict(query.validated_data)


class MetadataField(serializers.DictField):
    """OpenAI's ``metadata``: at most 16 pairs, keys of at most 64 characters; none at all is an empty one."""

    child = serializers.CharField(max_length=512, allow_blank=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"required": False, "allow_null": True, **kwargs})

    def to_internal_value(self, data: Any) -> Any:
        """The pairs."""
        pairs = super().to_internal_value(data)
        if len(pairs) > 16:
            raise serializers.ValidationError(f"At most 16 pairs; found {len(pairs)}.")
        if long := next((key for key in pairs if len(key) > 64), None):
            raise serializers.ValidationError(f"A key has at most 64 characters; {long[:20]!r}… has {len(long)}.")
        return pairs


class Deleted(serializers.Serializer[Any]):
    """OpenAI's answer to a DELETE."""

    id = serializers.CharField()
    object = serializers.CharField()
    deleted = serializers.BooleanField()
