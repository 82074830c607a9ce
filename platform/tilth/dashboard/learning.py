"""Pages of jobs and models: start, watch, try."""

import json
from collections.abc import Sequence
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from tilth.catalog.selectors import base_model_list, vertical_list
from tilth.contract.learning import Method
from tilth.contract.vertical import BaseModelOffer
from tilth.core import ids
from tilth.core.errors import Invalid, NotFound
from tilth.core.money import MICRO_PER_CENT, dollars
from tilth.dashboard.pages import page, show
from tilth.datasets.features import KINDS
from tilth.datasets.models import DatasetVersion, File
from tilth.datasets.selectors import dataset_get, file_get, file_list
from tilth.registry import selectors as registry
from tilth.registry.models import Model
from tilth.tenants.principal import Principal
from tilth.tenants.scopes import Scope
from tilth.training import selectors, services
from tilth.training.orders import JobIn, order_of
from tilth.training.shapes import job_shape, result_files

TRIALS = (8, 16, 32)
ENDED = frozenset({"succeeded", "failed", "cancelled"})
KIND = "kind-"
"""Begins the name of a field that says how a column is read."""
ACTIONS = {"cancel": services.job_cancel, "pause": services.job_pause, "resume": services.job_resume}


@page(Scope.JOBS_READ)
def jobs(request: HttpRequest, principal: Principal) -> HttpResponse:
    """Jobs, and the form for a new one."""
    if request.method == "POST":
        principal.need(Scope.JOBS_WRITE)
        made = services.job_create(tenant=principal.tenant, by=principal, order=order_of(_wish(request)))
        return redirect("job", job=ids.public("ftjob", made))
    found, _ = selectors.job_list(tenant=principal.tenant, limit=50)
    usable, _ = file_list(tenant=principal.tenant, limit=100, purpose="fine-tune")
    choices = [(ids.public("file", file.id), file) for file in usable if file.status == "processed"]
    shown, chosen = [job_shape(view) for view in found], _chosen(request, principal, choices)
    form = {"files": choices, "kinds": KINDS, "methods": [each.value for each in Method], "trials": TRIALS, **chosen}
    return show(request, principal, "jobs.html", page="jobs", jobs=shown, **form)


@page(Scope.JOBS_READ)
def job(request: HttpRequest, principal: Principal, job: str) -> HttpResponse:
    """One job; the page asks for its inner part every second until the job has ended."""
    wanted = ids.parse("ftjob", job)
    view = selectors.job_get(tenant=principal.tenant, job=wanted)
    shape = job_shape(view)
    events, _ = selectors.event_list(tenant=principal.tenant, job=wanted, limit=30)
    part = "job_watch.html" if request.headers.get("HX-Request") else "job.html"
    context = {"job": shape, "events": events, "ended": shape["status"] in ENDED, "results": result_files(view.job)}
    context["estimate"] = _estimate(shape["estimate"])
    return show(request, principal, part, page="jobs", percent=round(100 * shape["progress"]), **context)


def _estimate(told: dict[str, Any] | None) -> str:
    """In a sentence; cents are rounded up."""
    if told is None:
        return ""
    expected, most = (dollars(-(-told[name] // MICRO_PER_CENT)) for name in ("cost_micro_usd", "at_most_micro_usd"))
    return f"about {told['seconds']:,} s, {expected}; at most {told['at_most_seconds']:,} s, {most}"


@require_POST
@page(Scope.JOBS_WRITE)
def job_act(request: HttpRequest, principal: Principal, job: str, action: str) -> HttpResponse:
    """Cancel, pause or resume."""
    if action not in ACTIONS:
        raise NotFound.of("action", action)
    ACTIONS[action](tenant=principal.tenant, by=principal, job=ids.parse("ftjob", job))
    return redirect("job", job=job)


@page(Scope.MODELS_READ)
def models(request: HttpRequest, principal: Principal) -> HttpResponse:
    """The organisation's models, newest first."""
    found = [(model, _figures(model)) for model in registry.model_list(tenant=principal.tenant)]
    return show(request, principal, "models.html", page="models", models=found)


@page(Scope.MODELS_READ)
def model(request: HttpRequest, principal: Principal, model: str) -> HttpResponse:
    """One model: its figures, and a box to try it in."""
    found = registry.model_get(tenant=principal.tenant, name=model)
    row = _empty_row(dataset_get(tenant=principal.tenant, version=found.version_id))
    searched = [(line["name"], line["trials"]) for line in found.report.get("leaderboard", []) if "trials" in line]
    facts = {
        "report": found.report,
        "searched": searched,
        "figures": _figures(found),
        "selects": _selects(found),
        "row": row,
    }
    return show(request, principal, "model.html", page="models", model=found, **facts)


def _selects(model: Model) -> str:
    """The metric that chose it; models from before there was a choice were chosen by accuracy."""
    return str(model.report.get("selects", "accuracy"))


def _figures(model: Model) -> list[tuple[str, float]]:
    """Metrics on the test split, the one that chose first."""
    return sorted(model.metrics.items(), key=lambda each: (each[0] != _selects(model), each[0]))


def _empty_row(version: DatasetVersion) -> str:
    """The columns of a table as JSON to be filled in; empty for a model of texts."""
    return json.dumps(dict.fromkeys(version.kinds), indent=1) if version.kinds else ""


def _chosen(request: HttpRequest, principal: Principal, files: Sequence[tuple[str, File]]) -> dict[str, Any]:
    """File and base model of the form, and how the file's free columns would be read for it; the form asks again."""
    asked, bases = request.GET, base_model_list()
    file = next((each for each in files if each[0] in (asked.get("training_file"), asked.get("file"))), None)
    id_, found = file or next(iter(files), ("", None))
    base = next((base for base in bases if base.id == asked.get("model")), None) or next(iter(bases), None)
    told = _features(file_get(tenant=principal.tenant, file=found.id), base) if found and base else []
    return {"file": id_, "base": base, "bases": bases, "features": told}


def _features(file: File, base: BaseModelOffer) -> list[dict[str, Any]]:
    """{column, kind, reason} of each free column, as the check of the file found it."""
    offering = [face.name for face in vertical_list() if base in face.base_models]
    roles = (file.report or {}).get("roles", {})
    return [feature for name in offering[:1] for feature in roles.get(name, {}).get("features", [])]


def _wish(request: HttpRequest) -> dict[str, Any]:
    """The form as the API would get it; empty fields are left out."""
    sent = request.POST
    wish: dict[str, Any] = {
        name: sent[name] for name in ("model", "training_file", "suffix", "split") if sent.get(name)
    }
    wish["options"] = {name: name in sent for name in ("accept_bad_rows", "class_weights")}
    wish["options"] |= {name: sent[name] for name in ("method", "trials") if sent.get(name)}
    if columns := {role: sent[f"column-{role}"] for role in ("text", "label") if sent.get(f"column-{role}")}:
        wish["columns"] = columns
    if kinds := {name.removeprefix(KIND): str(kind) for name, kind in sent.items() if name.startswith(KIND) and kind}:
        wish["kinds"] = kinds
    checked = JobIn(data=wish)
    if not checked.is_valid():
        raise Invalid(f"The form is not complete: {json.dumps(checked.errors)}")
    return dict(checked.validated_data)
