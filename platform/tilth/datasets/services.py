"""Writes of files: created when their bytes are stored, checked by the worker, deleted; swept when they expire."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from procrastinate.contrib.django import app

from tilth.contract.errors import SealBroken
from tilth.contract.registry import verticals
from tilth.core import storage
from tilth.core.clock import now
from tilth.core.crash import crash_point
from tilth.core.errors import Invalid, NotFound
from tilth.core.ids import public
from tilth.core.keystore import KeyDestroyed
from tilth.core.scope import in_tenant
from tilth.core.storage import StoredObject
from tilth.datasets.freezing import dataset_freeze
from tilth.datasets.models import PURPOSES, RESULTS, File
from tilth.datasets.recipes import SplitOptions
from tilth.datasets.sandbox import run_child
from tilth.datasets.selectors import living
from tilth.tenants.principal import Principal
from tilth.tenants.services import audit

__all__ = ["SplitOptions", "dataset_freeze", "file_check", "file_create", "file_delete"]

EXPIRY_S = (3600, 30 * 24 * 3600)
"""How long a file that expires may live, in seconds."""


def file_path(tenant: UUID, file: UUID) -> str:
    """Where the bytes of a file lie."""
    return storage.path(tenant, "files", file.hex, "raw")


@in_tenant
def file_create(
    *,
    tenant: UUID,
    by: Principal,
    file: UUID,
    filename: str,
    purpose: str,
    stored: StoredObject,
    expires_after_s: int | None = None,
) -> File:
    """The row of a stored file, to be checked by the worker.

    ``file`` is the id under which the bytes are stored. Raises Invalid for an unknown purpose or a wrong life.
    """
    refuse_wish(purpose, expires_after_s)
    filename = clean(filename)
    made = File.objects.create(
        id=file, filename=filename, purpose=purpose, bytes=stored.size, sha256=stored.sha256, path=stored.path,
        status=File.Status.UPLOADED if purpose == "fine-tune" else File.Status.PROCESSED,
        expires_at=_end(expires_after_s),
    )  # fmt: skip
    audit(by.actor, "file.create", file.hex, filename=filename, bytes=stored.size, sha256=stored.sha256)
    if purpose == "fine-tune":
        _later("datasets.check_file", tenant=tenant.hex, file=file.hex)
    return made


@in_tenant
def result_create(
    *,
    tenant: UUID,
    file: UUID,
    filename: str,
    stored: StoredObject,
    purpose: str = RESULTS,
    expires_after_s: int | None = None,
) -> File:
    """The row of a file that a job or a batch has made; it is the customer's as if it were uploaded."""
    made = File.objects.create(
        id=file, filename=filename, purpose=purpose, bytes=stored.size, sha256=stored.sha256, path=stored.path,
        status=File.Status.PROCESSED, expires_at=_end(expires_after_s),
    )  # fmt: skip
    audit("system", "file.create", file.hex, filename=filename, bytes=stored.size, sha256=stored.sha256)
    return made


def refuse_wish(purpose: str, expires_after_s: int | None) -> None:
    """Raises Invalid for an unknown purpose or a wrong life."""
    if purpose not in PURPOSES:
        known = ", ".join(PURPOSES)
        raise Invalid(f"There is no purpose {purpose!r}; the purposes are {known}.", param="purpose")
    refuse_life(expires_after_s, "expires_after[seconds]")


def refuse_life(expires_after_s: int | None, param: str) -> None:
    """Raises Invalid for a wrong life of a file."""
    least, most = EXPIRY_S
    if expires_after_s is not None and not least <= expires_after_s <= most:
        raise Invalid(f"A file expires after {least} to {most} seconds, found {expires_after_s}.", param=param)


def clean(filename: str) -> str:
    """A file name without folders and control characters, at most 255 characters."""
    name = filename.replace("\\", "/").rpartition("/")[2]
    return "".join(char for char in name if char.isprintable()).strip()[-255:] or "file"


def file_check(*, tenant: UUID, file: UUID) -> None:
    """Lets the child look at a file and writes down what it found; twice changes nothing."""
    found = _unchecked(tenant=tenant, file=file)
    if found is None:
        return
    try:
        report = _inspected(found)
    except Invalid as error:
        _checked(tenant=tenant, file=file, report=None, error=error)
    except (FileNotFoundError, SealBroken, KeyDestroyed):
        missing = Invalid("The bytes of the file are gone or damaged; upload it again.", code="no_bytes")
        _checked(tenant=tenant, file=file, report=None, error=missing)
    else:
        crash_point("file.checked")
        _checked(tenant=tenant, file=file, report=report, error=None)


@in_tenant
def file_delete(*, tenant: UUID, by: Principal, file: UUID) -> None:
    """Deletes a file. Frozen versions keep their own copy of its rows, so queued and running jobs go on.

    A job whose files are not checked yet fails and says that its file is gone.
    """
    found = living().select_for_update().filter(id=file).first()
    if found is None:
        raise NotFound.of("file", public("file", file))
    _delete(found)
    audit(by.actor, "file.delete", file.hex, filename=found.filename)


@in_tenant
def file_expire(*, tenant: UUID, file: UUID) -> None:
    """Deletes a file whose time is over; twice changes nothing."""
    found = File.locked(id=file, deleted_at=None, expires_at__lte=now())
    if found is not None:
        _delete(found)
        audit("system", "file.expire", file.hex, filename=found.filename)


def _end(life_s: int | None) -> datetime | None:
    return now() + timedelta(seconds=life_s) if life_s else None


def _delete(file: File) -> None:
    """The bytes go after the commit, by the worker."""
    file.deleted_at = now()
    file.report = None
    file.save(update_fields=["deleted_at", "report"])
    _later("datasets.remove_bytes", tenant=file.tenant_id.hex, file=file.id.hex)


@in_tenant
def _unchecked(*, tenant: UUID, file: UUID) -> File | None:
    return living().filter(id=file, status=File.Status.UPLOADED).first()


def _inspected(file: File) -> dict[str, Any]:
    schemas = {name: face.schema_.model_dump(mode="json") for name, face in verticals().items()}
    with storage.scratch_folder() as at, storage.local_copy(file.path) as path:
        return run_child({"work": "inspect", "path": str(path), "schemas": schemas}, at)


@in_tenant
def _checked(*, tenant: UUID, file: UUID, report: dict[str, Any] | None, error: Invalid | None) -> None:
    found = File.locked(id=file, status=File.Status.UPLOADED, deleted_at=None)
    if found is None:
        return
    if error is not None:
        found.status, found.status_details = File.Status.ERROR, error.message
        found.report = {"error": {"code": error.reason, "message": error.message}}
    elif report is not None:
        found.status, found.status_details = File.Status.PROCESSED, _summary(report)
        found.report = report
    found.save(update_fields=["status", "status_details", "report"])


def _summary(report: dict[str, Any]) -> str:
    """Empty if every row can be read."""
    problems = report["problems"]
    if not problems["total"]:
        return ""
    first = problems["first"][0]
    where = f"{first['unit']} {first['line']}: {first['message']}; {first['cure']}"
    return f"{problems['total']:,} of {report['rows']:,} rows cannot be read, the first at {where}."


def _later(task: str, **ids: str) -> None:
    """Done by the worker once this transaction has committed."""
    app.configure_task(task).defer(**ids)
