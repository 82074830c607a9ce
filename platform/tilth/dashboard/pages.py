"""What every page needs: a signed-in member, their organisation, and errors shown as messages."""

from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlsplit

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.http import url_has_allowed_host_and_scheme

from tilth.core.errors import TilthError, Unavailable
from tilth.tenants.principal import Principal
from tilth.tenants.scopes import Scope
from tilth.tenants.selectors import organisation_get
from tilth.tenants.sessions import principal_of_session

View = Callable[..., HttpResponse]


def page(scope: Scope) -> Callable[[View], View]:
    """A page for members with a right: the view gets the Principal after the request."""

    def decorate(view: View) -> View:
        @wraps(view)
        @login_required
        def checked(request: HttpRequest, **path: str) -> HttpResponse:
            principal = principal_of_session(request)
            if principal is None:
                return redirect("organisations")
            return _answer(request, lambda: _permitted(view, request, principal, scope, path))

        return checked

    return decorate


def show(request: HttpRequest, principal: Principal, template: str, **context: Any) -> HttpResponse:
    """Renders a page of an organisation."""
    organisation = organisation_get(tenant=principal.tenant)
    return render(request, f"dashboard/{template}", {"organisation": organisation, "principal": principal, **context})


def _permitted(
    view: View, request: HttpRequest, principal: Principal, scope: Scope, path: dict[str, str]
) -> HttpResponse:
    principal.need(scope)
    return view(request, principal, **path)


def _answer(request: HttpRequest, run: Callable[[], HttpResponse]) -> HttpResponse:
    """A refused form comes back to where it was, with the reason; a refused page says why."""
    try:
        return run()
    except Unavailable:
        raise
    except TilthError as error:
        if request.method == "POST":
            messages.error(request, error.message)
            return redirect(_back(request))
        from tilth.core.http import status_of

        return render(request, "dashboard/refused.html", {"error": error}, status=status_of(error))


def _back(request: HttpRequest) -> str:
    """The page that the form stood on, if it was one of ours."""
    came_from = request.headers.get("Referer", "")
    ours = url_has_allowed_host_and_scheme(came_from, allowed_hosts={request.get_host()})
    return urlsplit(came_from).path if ours else "home"
