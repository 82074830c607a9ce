"""Pages of organisations and keys."""

from typing import cast
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from tilth.core import ids
from tilth.dashboard.pages import page, show
from tilth.tenants import selectors, services
from tilth.tenants.principal import Principal
from tilth.tenants.scopes import KEY_SCOPES, Scope
from tilth.tenants.sessions import choose_organisation, principal_of_session


@login_required
def organisations(request: HttpRequest) -> HttpResponse:
    """Chooses an organisation, or makes the first one."""
    user = cast(UUID, request.user.pk)
    if request.method == "POST":
        tenant = services.organisation_create(name=request.POST.get("name", ""), owner=user)
        choose_organisation(request, tenant)
        return redirect("home")
    tenants = [member.tenant_id for member in selectors.memberships_of_user(user)]
    found = [selectors.organisation_get(tenant=tenant) for tenant in tenants]
    principal = principal_of_session(request)
    current = next((o for o in found if principal and o.id == principal.tenant), None)
    return render(request, "dashboard/organisations.html", {"organisations": found, "organisation": current})


@require_POST
@login_required
def organisation_choose(request: HttpRequest, organisation: str) -> HttpResponse:
    """Works in another of one's organisations."""
    wanted, user = ids.parse("org", organisation), cast(UUID, request.user.pk)
    if wanted in [member.tenant_id for member in selectors.memberships_of_user(user)]:
        choose_organisation(request, wanted)
    return redirect("home")


@page(Scope.KEYS_READ)
def keys(request: HttpRequest, principal: Principal) -> HttpResponse:
    """The keys; a new one's secret is shown on the answer to its making, and never again."""
    secret = None
    if request.method == "POST":
        principal.need(Scope.KEYS_WRITE)
        name = request.POST.get("name", "").strip() or "Unnamed"
        scopes = frozenset(KEY_SCOPES & principal.scopes)
        _, secret = services.key_create(tenant=principal.tenant, by=principal, name=name[:100], scopes=scopes)
    found = [key for key in selectors.key_list(tenant=principal.tenant) if key.name != "browser"]
    return show(request, principal, "keys.html", page="keys", keys=found, secret=secret)


@require_POST
@page(Scope.KEYS_WRITE)
def key_revoke(request: HttpRequest, principal: Principal, key: str) -> HttpResponse:
    """Stops a key."""
    services.key_revoke(tenant=principal.tenant, by=principal, key=ids.parse("key", key))
    return redirect("keys")
