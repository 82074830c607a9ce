"""How the management API describes itself: nested serializers keep their view's name; keys and sessions are told."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema


class Schema(AutoSchema):
    """Names a nested serializer after its view: ``KeyListView.In`` is ``KeyListIn``."""

    def get_serializer_name(self, serializer: Any, direction: Any) -> str:
        """The component's name."""
        return type(serializer).__qualname__.replace("View", "").replace(".", "")


class KeyOrSessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """``Authorization: Bearer tilth_live_…``."""

    target_class = "tilth.tenants.authentication.KeyOrSession"
    name = "key"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        """A bearer token."""
        return {"type": "http", "scheme": "bearer"}
