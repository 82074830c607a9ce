"""The first page: what there is, and what to do next."""

from django.http import HttpRequest, HttpResponse

from tilth.dashboard.pages import page, show
from tilth.datasets.selectors import file_count
from tilth.registry.selectors import model_list
from tilth.tenants.principal import Principal
from tilth.tenants.scopes import Scope
from tilth.tenants.selectors import key_list
from tilth.training.selectors import job_list


@page(Scope.FILES_READ)
def home(request: HttpRequest, principal: Principal) -> HttpResponse:
    """Counts, and the three steps to a model."""
    jobs, _ = job_list(tenant=principal.tenant, limit=100)
    files, models = file_count(tenant=principal.tenant), model_list(tenant=principal.tenant)
    counts = {"files": files, "jobs": len(jobs), "models": len(models)}
    keys = sum(key.revoked_at is None for key in key_list(tenant=principal.tenant) if key.name != "browser")
    base_url = request.build_absolute_uri("/v1")
    return show(request, principal, "home.html", page="home", counts={**counts, "keys": keys}, base_url=base_url)
