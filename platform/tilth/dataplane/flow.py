"""The opaque ids by which the data plane is fair between customers without knowing them."""

import hmac
from hashlib import sha256
from uuid import UUID

from django.conf import settings


def flow_of(tenant: UUID) -> str:
    """The same for all of a tenant's jobs and predictions."""
    return _opaque(b"flow:", tenant)


def batch_flow_of(tenant: UUID) -> str:
    """Of a tenant's batches: they queue beside its own interactive predictions, not before them."""
    return _opaque(b"batch:", tenant)


def _opaque(kind: bytes, tenant: UUID) -> str:
    return hmac.new(settings.SECRET_KEY.encode(), kind + tenant.bytes, sha256).hexdigest()[:16]
