"""The pages of batches: a file of rows or requests, answered as a job; its results to download."""

import json
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from tilth.batches import selectors, services
from tilth.batches.orders import BatchIn, order_of
from tilth.batches.shapes import batch_shape
from tilth.batches.states import ENDED, Endpoint
from tilth.core import ids
from tilth.core.errors import Invalid
from tilth.dashboard.pages import page, show
from tilth.datasets.selectors import file_list
from tilth.serving.selectors import deployment_list
from tilth.tenants.principal import Principal
from tilth.tenants.scopes import Scope

REQUESTS = "requests:"
"""Begins the choice of a file of requests, which name their model themselves; the endpoint follows."""


@page(Scope.JOBS_READ)
def batches(request: HttpRequest, principal: Principal) -> HttpResponse:
    """Batches, newest first, and the form for a new one; the table asks for itself while one is under way."""
    if request.method == "POST":
        principal.need(Scope.JOBS_WRITE)
        services.batch_create(tenant=principal.tenant, by=principal, order=order_of(_wish(request)))
        return redirect("batches")
    found, _ = selectors.batch_list(tenant=principal.tenant, limit=50)
    shown = [(batch_shape(batch), batch.input_file.filename) for batch in found]
    part = "batches_table.html" if request.headers.get("HX-Request") else "batches.html"
    files, models = _choices(principal)
    busy = any(batch.state not in ENDED for batch in found)
    return show(request, principal, part, page="batches", batches=shown, busy=busy, files=files, models=models)


@require_POST
@page(Scope.JOBS_WRITE)
def batch_cancel(request: HttpRequest, principal: Principal, batch: str) -> HttpResponse:
    """What is answered is delivered."""
    services.batch_cancel(tenant=principal.tenant, by=principal, batch=ids.parse("batch", batch))
    return redirect("batches")


def _choices(principal: Principal) -> tuple[list[tuple[str, str]], list[str]]:
    """(id, name) of files, and names of models."""
    files, _ = file_list(tenant=principal.tenant, limit=100, purpose=services.PURPOSE)
    models = [deployment.name for deployment in deployment_list(tenant=principal.tenant)]
    return [(ids.public("file", file.id), file.filename) for file in files], models


def _wish(request: HttpRequest) -> dict[str, Any]:
    """The form as the API would get it."""
    chosen = request.POST.get("model", "")
    wish: dict[str, Any] = {"input_file_id": request.POST.get("input_file_id", ""), "completion_window": "24h"}
    if chosen.startswith(REQUESTS):
        wish["endpoint"] = chosen.removeprefix(REQUESTS)
    else:
        wish |= {"endpoint": Endpoint.PREDICTIONS.value, "model": chosen}
    checked = BatchIn(data=wish)
    if not checked.is_valid():
        raise Invalid(f"The form is not complete: {json.dumps(checked.errors)}")
    return dict(checked.validated_data)
