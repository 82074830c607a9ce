"""Checks that somebody asks for: kept once for each recipe, answered by the worker."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from uuid import UUID

from procrastinate.contrib.django import app

from tilth.core import storage
from tilth.core.crash import crash_point
from tilth.core.errors import Invalid, NotFound, TilthError
from tilth.core.scope import in_tenant
from tilth.datasets.freezing import checked, dataset_freeze, files_of
from tilth.datasets.models import Check, DatasetVersion
from tilth.datasets.recipes import Request, SplitOptions, check_recipe


@in_tenant
def check_create(*, tenant: UUID, request: Request, freeze: bool) -> Check:
    """The check of these files under this mapping, asked for or answered before; raises NotFound, Invalid."""
    files = files_of(tenant=tenant, request=request)
    made, fresh = Check.objects.get_or_create(
        recipe=check_recipe(request, files),
        freeze=freeze,
        tenant_id=tenant,
        defaults={
            "vertical": request.vertical,
            "columns": dict(request.columns) if request.columns else None,
            "kinds": dict(request.kinds) if request.kinds else None,
            "options": asdict(request.options),
            **{f"{param}_id": file for param, file in request.ids().items()},
        },
    )
    if fresh:
        app.configure_task("datasets.run_check").defer(tenant=tenant.hex, check=made.id.hex)
    return made


def check_run(*, tenant: UUID, check: UUID) -> None:
    """Does the work and writes down what came of it; twice changes nothing."""
    asked = _pending(tenant=tenant, check=check)
    if asked is None:
        return
    request = _request(asked)
    try:
        if asked.freeze:
            version = _freeze(tenant, request)
            outcome: Mapping[str, Any] = {"report": version.report, "version_id": version.id}
        else:
            with storage.scratch_folder() as at:
                outcome = {"report": checked(request, files_of(tenant=tenant, request=request), at, None)}
    except (Invalid, NotFound) as error:
        _answer(tenant=tenant, check=check, state=Check.State.REFUSED, outcome={"error": _told(error)})
        return
    crash_point("check.done")
    _answer(tenant=tenant, check=check, state=Check.State.PASSED, outcome=outcome)


@in_tenant
def _pending(*, tenant: UUID, check: UUID) -> Check | None:
    return Check.objects.filter(id=check, state=Check.State.PENDING).first()


@in_tenant
def _answer(*, tenant: UUID, check: UUID, state: str, outcome: Mapping[str, Any]) -> None:
    found = Check.locked(id=check, state=Check.State.PENDING)
    if found is None:
        return
    found.state = state
    for name, value in outcome.items():
        setattr(found, name, value)
    found.save()


def _freeze(tenant: UUID, request: Request) -> DatasetVersion:
    return dataset_freeze(
        tenant=tenant,
        vertical=request.vertical,
        **request.ids(),
        columns=request.columns,
        options=request.options,
        kinds=request.kinds,
    )  # fmt: skip


def _request(check: Check) -> Request:
    return Request(
        vertical=check.vertical,
        training_file=check.training_file_id,
        validation_file=check.validation_file_id,
        test_file=check.test_file_id,
        columns=check.columns,
        options=SplitOptions(**check.options),
        kinds=check.kinds,
    )


def _told(error: TilthError) -> dict[str, Any]:
    return {"code": error.reason, "message": error.message, "param": error.param, **error.extra}
