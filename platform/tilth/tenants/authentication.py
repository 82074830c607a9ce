"""DRF's side of who is asking: an API key, or a session with its organisation; rights are denied by default."""

from contextlib import suppress
from typing import Any

from django.db import InternalError, OperationalError
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from tilth.core.clock import now
from tilth.core.errors import NotAllowed, Unauthenticated
from tilth.tenants.principal import Principal
from tilth.tenants.scopes import Scope
from tilth.tenants.selectors import key_by_secret, principal_of_key
from tilth.tenants.services import USED_TO, keys_used
from tilth.tenants.sessions import principal_of_session

MISSING = "You didn't provide an API key. Send it as 'Authorization: Bearer tilth_live_…'."


class KeyOrSession(BaseAuthentication):
    """``Authorization: Bearer <key>``, else the browser's session (with its CSRF check)."""

    def authenticate(self, request: Request) -> tuple[Principal, None]:
        """The principal; raises Unauthenticated."""
        header = request.headers.get("Authorization", "")
        if header:
            return _principal(secret_of(header)), None
        principal = principal_of_session(request._request)
        if principal is None:
            raise Unauthenticated(MISSING)
        plain: Any = request._request  # DRF's own would read the body
        SessionAuthentication().enforce_csrf(plain)
        return principal, None

    def authenticate_header(self, request: Request) -> str:
        """Makes DRF answer 401, not 403."""
        return "Bearer"


def _principal(secret: str) -> Principal:
    """Of a key, which is used by this; a database that is full or can only be read refuses nobody for that."""
    key = key_by_secret(secret)
    if key.last_used_at is None or key.last_used_at < now() - USED_TO:
        with suppress(OperationalError, InternalError):
            keys_used(tenant=key.tenant_id, at={key.id: now()})
    return principal_of_key(key)


def secret_of(header: str) -> str:
    """The text of ``Bearer <text>``; raises Unauthenticated for another scheme."""
    scheme, _, secret = header.partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated(MISSING)
    return secret.strip(" ")


class Scoped(BasePermission):
    """A view names the scope of each method in ``scopes``; a method it does not name is denied."""

    def has_permission(self, request: Request, view: Any) -> bool:
        """True, or raises Forbidden naming the scope."""
        if request.method == "OPTIONS":
            return True
        scope: Scope | None = view.scopes.get("GET" if request.method == "HEAD" else request.method)
        if scope is None:
            allow = view.headers["Allow"]
            raise NotAllowed(f"{request.method} is not allowed here; allowed are {allow}.", allow=allow)
        principal_of(request).need(scope)
        return True


def principal_of(request: Request) -> Principal:
    """The principal that KeyOrSession found."""
    principal = request.user
    if not isinstance(principal, Principal):
        raise Unauthenticated(MISSING)
    return principal
