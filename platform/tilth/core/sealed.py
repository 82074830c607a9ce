"""Columns that hold customers' own words: sealed with the tenant's key, so that an old dump cannot be read after it."""

import base64
import io
import json
from typing import Any
from uuid import UUID

from django.db import models

from tilth.contract.sealing import derived, seal, unsealed
from tilth.core.keystore import KeyDestroyed
from tilth.core.scope import current_tenant
from tilth.core.storage import key_store

MARK = "sealed"


class SealedJSON(models.JSONField):
    """JSON that lies as ``{"sealed": "<tenant>:<base64>"}``; queries cannot look into it.

    Under a destroyed key nothing is kept and nothing is found: None.
    """

    def get_db_prep_save(self, value: Any, connection: Any) -> Any:
        """Sealed with the open scope's tenant's key."""
        kept = value if value is None else {MARK: _sealed(json.dumps(value))}
        return super().get_db_prep_save(kept, connection)

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        """As it was saved."""
        return opened(super().from_db_value(value, expression, connection))


class SealedText(models.TextField):  # type: ignore[type-arg]
    """Text that lies as ``sealed:<tenant>:<base64>``; the empty text stays empty. Queries cannot look into it."""

    def get_db_prep_save(self, value: Any, connection: Any) -> Any:
        """Sealed with the open scope's tenant's key."""
        kept = f"{MARK}:{_sealed(json.dumps(value))}" if value else value
        return super().get_db_prep_save(kept, connection)

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        """As it was saved."""
        return opened(value) if value else value


def opened(value: Any) -> Any:
    """What a sealed column's value says; any other value as it is, and what a destroyed key sealed is nothing."""
    if isinstance(value, dict) and set(value) == {MARK}:
        return _opened(value[MARK], None)
    if isinstance(value, str) and value.startswith(f"{MARK}:"):
        return _opened(value.removeprefix(f"{MARK}:"), "")
    return value


def _sealed(text: str) -> str:
    tenant = current_tenant()
    try:
        whole = seal(text.encode(), _key(tenant))
    except KeyDestroyed:
        return ""
    return f"{tenant.hex}:{base64.b64encode(whole).decode()}"


def _opened(text: str, nothing: Any) -> Any:
    tenant, _, whole = text.partition(":")
    try:
        key = _key(UUID(hex=tenant)) if tenant else None
    except KeyDestroyed:
        key = None
    if key is None:
        return nothing
    return json.loads(b"".join(unsealed(io.BytesIO(base64.b64decode(whole)), key)))


def _key(tenant: UUID) -> bytes:
    return derived(key_store().key(tenant), f"tenants/{tenant.hex}/rows")
