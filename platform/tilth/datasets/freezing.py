"""Freezes checked rows as a version, once for each recipe; nothing is half written when it is killed."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import UUID

from django.db import IntegrityError

from tilth.contract.errors import SealBroken
from tilth.core import storage
from tilth.core.crash import crash_point
from tilth.core.errors import Invalid, NotFound
from tilth.core.ids import public, uuid7
from tilth.core.scope import in_tenant
from tilth.core.storage import StoredObject
from tilth.datasets.features import Kind
from tilth.datasets.models import DatasetVersion, File
from tilth.datasets.recipes import Request, SplitOptions, recipe_of, sources, wish
from tilth.datasets.sandbox import run_child
from tilth.datasets.selectors import living


def dataset_freeze(
    *,
    tenant: UUID,
    vertical: str,
    training_file: UUID,
    validation_file: UUID | None = None,
    test_file: UUID | None = None,
    columns: Mapping[str, str] | None = None,
    options: SplitOptions | None = None,
    kinds: Mapping[str, str] | None = None,
) -> DatasetVersion:
    """The frozen version of these files: checked, split, stored; the same request gives the same version.

    Takes as long as reading the files does; call it in the worker. Raises NotFound for a file that is gone, Invalid
    with line, column, value and cure for rows that cannot be learned from, Unavailable if it should be tried again.
    """
    request = Request(vertical, training_file, validation_file, test_file, columns, options or SplitOptions(), kinds)
    files = files_of(tenant=tenant, request=request)
    recipe = recipe_of(request, files)
    if found := _frozen(tenant=tenant, recipe=recipe):
        return found
    version = uuid7()
    with storage.scratch_folder() as at:
        out = at / "rows.parquet"
        report = checked(request, files, at, out)
        stored = storage.put_file(storage.path(tenant, "datasets", version.hex, "rows.parquet"), out)
    crash_point("freeze.stored")
    return _keep(tenant=tenant, version=version, request=request, recipe=recipe, stored=stored, report=report)


def checked(request: Request, files: Mapping[str, File], at: Path, out: Path | None) -> dict[str, Any]:
    """The child's report on the files; rows are written to ``out`` if it is given."""
    with ExitStack() as stack:
        told = []
        for file, source in zip(files.values(), sources(request, files), strict=True):
            try:
                path = stack.enter_context(storage.local_copy(file.path))
            except (FileNotFoundError, ValueError, SealBroken):
                raise _gone(source["param"], file.id) from None
            told.append({**source, "path": str(path)})
        order = {"work": "freeze", "sources": told, "wish": wish(request), "out": str(out) if out else None}
        return run_child(order, at)


@in_tenant
def files_of(*, tenant: UUID, request: Request) -> dict[str, File]:
    """Parameter → file; raises NotFound, and Invalid for a file that was found to be no table."""
    found: dict[str, File] = {}
    for param, id_ in request.ids().items():
        file = living().filter(id=id_).defer("report").first()
        if file is None:
            raise _gone(param, id_)
        if file.status == File.Status.ERROR:
            raise Invalid(f"{file.filename}: {file.status_details}", param=param, code="unreadable_file")
        found[param] = file
    return found


@in_tenant
def _frozen(*, tenant: UUID, recipe: str) -> DatasetVersion | None:
    return DatasetVersion.objects.filter(recipe=recipe).first()


def _keep(
    *, tenant: UUID, version: UUID, request: Request, recipe: str, stored: StoredObject, report: dict[str, Any]
) -> DatasetVersion:
    """Writes the version's row; the loser of a race removes its bytes and returns the winner's."""
    try:
        return _insert(
            tenant=tenant, version=version, request=request, recipe=recipe, stored=stored, report=report
        )  # fmt: skip
    except IntegrityError:
        storage.delete_prefix(stored.path.rpartition("/")[0])
        winner = _frozen(tenant=tenant, recipe=recipe)
        if winner is None:
            raise
        return winner


@in_tenant
def _insert(
    *, tenant: UUID, version: UUID, request: Request, recipe: str, stored: StoredObject, report: dict[str, Any]
) -> DatasetVersion:
    return DatasetVersion.objects.create(
        id=version, recipe=recipe, vertical=request.vertical, options=asdict(request.options),
        columns={match["role"]: match["column"] for match in report["columns"]},
        kinds={feature["column"]: feature["kind"] for feature in report["features"] if feature["kind"] != Kind.IGNORE},
        path=stored.path, sha256=stored.sha256, bytes=stored.size,
        rows=report["rows"]["kept"], splits=report["splits"], report=report,
        **{f"{param}_id": file for param, file in request.ids().items()},
    )  # fmt: skip


def _gone(param: str, file: UUID) -> NotFound:
    return NotFound(f"No such file: {public('file', file)}", param=param)
