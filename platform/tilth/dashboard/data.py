"""Pages of files: upload, what the check found, which column is what."""

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from tilth.core import ids
from tilth.core.clock import now
from tilth.dashboard.pages import page, show
from tilth.datasets import selectors, services
from tilth.tenants.principal import Principal
from tilth.tenants.scopes import Scope
from tilth.tenants.services import BROWSER_LIFE, key_create

BROWSER = frozenset({Scope.FILES_WRITE, Scope.PREDICT})


@page(Scope.FILES_READ)
def files(request: HttpRequest, principal: Principal) -> HttpResponse:
    """Files, newest first; the upload goes to the thin app."""
    found, _ = selectors.file_list(tenant=principal.tenant, limit=100)
    shown = [(ids.public("file", file.id), file) for file in found]
    part = "files_table.html" if request.headers.get("HX-Request") else "files.html"
    return show(request, principal, part, page="files", files=shown)


@page(Scope.FILES_READ)
def file(request: HttpRequest, principal: Principal, file: str) -> HttpResponse:
    """What the check of one file found."""
    found = selectors.file_get(tenant=principal.tenant, file=ids.parse("file", file))
    return show(request, principal, "file.html", page="files", public=file, file=found, report=found.report)


@require_POST
@page(Scope.FILES_WRITE)
def file_delete(request: HttpRequest, principal: Principal, file: str) -> HttpResponse:
    """Frozen versions stay."""
    services.file_delete(tenant=principal.tenant, by=principal, file=ids.parse("file", file))
    return redirect("files")


@require_POST
@page(Scope.FILES_READ)
def browser_key(request: HttpRequest, principal: Principal) -> HttpResponse:
    """A key of a quarter of an hour, for this page's own calls of the thin app; it goes to the page alone."""
    scopes = BROWSER & principal.scopes
    _, text = key_create(
        tenant=principal.tenant, by=principal, name="browser", scopes=scopes, expires_at=now() + BROWSER_LIFE
    )
    return JsonResponse({"key": text.secret}, headers={"Cache-Control": "no-store"})
