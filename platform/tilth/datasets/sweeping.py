"""Removes what has expired and what killed processes left: objects without a row, halves, scratch folders."""

import os
import shutil
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from django.db.models import Q

from tilth.core import storage
from tilth.core.clock import now
from tilth.core.deletions import deletion
from tilth.core.models import TenantModel
from tilth.core.scope import tenant_scope
from tilth.datasets.models import DatasetVersion, File, Upload
from tilth.datasets.services import file_expire
from tilth.datasets.uploading import upload_expire

ORPHAN_AGE = timedelta(days=1)
"""No upload and no check lasts longer."""
KINDS: dict[str, tuple[type[TenantModel], Q]] = {
    "files": (File, Q()),
    "datasets": (DatasetVersion, Q()),
    "uploads": (Upload, Q(status=Upload.Status.PENDING)),
}
"""Folder of a tenant → the rows whose bytes lie there."""


def sweep() -> None:
    """All of it."""
    for tenant, file in _expired(File, deleted_at=None):
        file_expire(tenant=tenant, file=file)
    for tenant, upload in _expired(Upload, status=Upload.Status.PENDING):
        upload_expire(tenant=tenant, upload=upload)
    for name in storage.names("tenants"):
        remove_orphans(UUID(hex=name))
    sweep_scratch()


def sweep_scratch() -> None:
    """Plain copies that killed processes left."""
    for left in storage.scratch().iterdir():
        with suppress(FileNotFoundError):
            if not _at_work(left) or time.time() - left.stat().st_mtime > ORPHAN_AGE.total_seconds():
                shutil.rmtree(left, ignore_errors=True)


def remove_orphans(tenant: UUID) -> None:
    """A tenant's old objects in storage that no row knows."""
    for kind, (model, where) in KINDS.items():
        old = {id_ for name in storage.names(storage.path(tenant, kind)) if _age(id_ := UUID(hex=name)) > ORPHAN_AGE}
        with tenant_scope(tenant):
            known = set(model.objects.filter(where, id__in=old).values_list("id", flat=True))
        for orphan in old - known:
            with deletion():
                storage.delete_prefix(storage.path(tenant, kind, orphan.hex))


def _expired(model: type[File] | type[Upload], **living: Any) -> list[tuple[UUID, UUID]]:
    """(tenant, id) of what lives beyond its time, read across tenants as the system role."""
    rows = model.unscoped.using("system").filter(expires_at__lte=now(), **living)
    return list(rows.values_list("tenant_id", "id"))


def _at_work(left: Path) -> bool:
    """Whether the process after which a scratch folder is called still lives."""
    try:
        os.kill(int(left.name.partition("-")[0]), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _age(id_: UUID) -> timedelta:
    """Of a time-ordered id."""
    return now() - datetime.fromtimestamp((id_.int >> 80) / 1000, UTC)
