"""How both APIs describe themselves: nested serializers keep their view's name; keys, sessions and errors are told."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import inline_serializer
from rest_framework import serializers

from tilth.core.serializers import Strict

REF = "#/components/schemas/"
SECURITY = {"key": {"type": "http", "scheme": "bearer", "description": "An API key, tilth_live_…"}}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string", "enum": ["invalid_request_error", "server_error"]},
                "param": {"type": "string", "nullable": True},
                "code": {"type": "string"},
            },
        }
    },
}
"""OpenAI's error object; further facts (``limit_source`` …) may stand beside its four keys."""
ALWAYS = {
    400: "Cannot be done as said",
    401: "No valid key",
    403: "The key lacks a scope",
    503: "Try again in a moment",
}
POSTED = {
    402: "No budget left", 409: "The same request is under way", 415: "Another kind of body is needed",
    422: "The Idempotency-Key was used for another request",
}  # fmt: skip
IDEMPOTENCY = {
    "name": "Idempotency-Key", "in": "header", "required": False, "schema": {"type": "string", "maxLength": 255},
    "description": "Requests of one key within 10 minutes have one effect and one reply.",
}  # fmt: skip


class Schema(AutoSchema):
    """Names a nested serializer after its view: ``KeyListView.In`` is ``KeyListIn``."""

    def get_serializer_name(self, serializer: Any, direction: Any) -> str:
        """The component's name."""
        return type(serializer).__qualname__.replace("View", "").replace(".", "")

    def get_operation_id(self) -> str:
        """``get_v1_files_file_content``: as unique as method and path."""
        return "_".join([self.method.lower(), *re.findall(r"\w+", self.path)])

    def _map_serializer(self, serializer: Any, direction: Any, bypass_extensions: bool = False) -> Any:
        """A Strict one takes no other fields."""
        found = super()._map_serializer(serializer, direction, bypass_extensions)  # type: ignore[no-untyped-call]
        if isinstance(serializer, Strict) and found.get("type") == "object":
            found["additionalProperties"] = False
        return found


class KeyOrSessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """``Authorization: Bearer tilth_live_…``."""

    target_class = "tilth.tenants.authentication.KeyOrSession"
    name = "key"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        """A bearer token."""
        return SECURITY["key"]


def listed(item: type[serializers.Serializer[Any]], *, paged: bool = False) -> Any:
    """How a list of items is described: ``{"object": "list", "data": […]}``, with its cursors if it comes in pages."""
    fields: dict[str, Any] = {"object": serializers.CharField(), "data": item(many=True)}
    if paged:
        cursors = {name: serializers.CharField(allow_null=True) for name in ("first_id", "last_id")}
        fields |= {**cursors, "has_more": serializers.BooleanField()}
    name = item.__qualname__.replace("View", "").replace(".", "")
    return inline_serializer(f"{name}{'Page' if paged else 'List'}", fields)


@cache
def _described() -> dict[str, Any]:
    return SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-any-return, no-untyped-call]


def document(
    prefix: str, title: str, paths: Mapping[str, Any] | None = None, schemas: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The OpenAPI document of the routes below a prefix, and of further ones given as ``paths`` and ``schemas``."""
    whole = _described()
    found = {path: dict(item) for path, item in whole["paths"].items() if path.startswith(prefix)}
    for path, item in (paths or {}).items():
        found[path] = {**found.get(path, {}), **item}
    for path, item in found.items():
        found[path] = {method: _completed(path, method, operation) for method, operation in item.items()}
    known = {**whole["components"]["schemas"], **(schemas or {}), "Error": ERROR}
    return {
        "openapi": whole["openapi"],
        "info": {"title": title, "version": "1"},
        "paths": found,
        "components": {"schemas": _reached(found, known), "securitySchemes": SECURITY},
    }


def _completed(path: str, method: str, operation: dict[str, Any]) -> dict[str, Any]:
    """With the errors that it may be answered with."""
    told = dict(ALWAYS)
    pages = any(parameter["name"] == "after" for parameter in operation.get("parameters", []))
    if "{" in path or method == "post" or pages:
        told[404] = "No such object"
    if method in ("post", "patch"):
        told |= POSTED
    errors = {str(status): answer(words, {"$ref": REF + "Error"}) for status, words in told.items()}
    headers = [IDEMPOTENCY] if method == "post" else []
    parameters = [*operation.get("parameters", []), *headers]
    responses = {**errors, **operation["responses"]}
    return {**operation, "security": [{"key": []}], "parameters": parameters, "responses": responses}


def answer(words: str, schema: Mapping[str, Any], kind: str = "application/json") -> dict[str, Any]:
    """One response of an operation."""
    return {"description": words, "content": {kind: {"schema": schema}}}


def _reached(paths: Any, schemas: Mapping[str, Any]) -> dict[str, Any]:
    """Those schemas that the paths refer to, also by way of others."""
    found: dict[str, Any] = {}
    open_ = set(_references(paths))
    while open_:
        name = open_.pop()
        found[name] = schemas[name]
        open_ |= set(_references(schemas[name])) - set(found)
    return dict(sorted(found.items()))


def _references(value: Any) -> Iterable[str]:
    if isinstance(value, Mapping):
        if isinstance(named := value.get("$ref"), str):
            yield named.removeprefix(REF)
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)
