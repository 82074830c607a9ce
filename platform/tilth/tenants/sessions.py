"""The organisation a signed-in person works in, kept in their session."""

from uuid import UUID

from django.http import HttpRequest

from tilth.tenants.principal import Principal
from tilth.tenants.selectors import principal_of_user

KEY = "tenant"


def principal_of_session(request: HttpRequest) -> Principal | None:
    """The principal of a browser's session; None if nobody is signed in or they belong nowhere."""
    if not request.user.is_authenticated:
        return None
    chosen = request.session.get(KEY)
    return principal_of_user(request.user.id, UUID(chosen) if chosen else None)


def choose_organisation(request: HttpRequest, tenant: UUID) -> None:
    """Works in that organisation from now on; membership is checked again on every request."""
    request.session[KEY] = str(tenant)
