"""Reads of files, versions and checks."""

from uuid import UUID

from django.db.models import Q, QuerySet

from tilth.core.clock import now
from tilth.core.errors import NotFound
from tilth.core.ids import public
from tilth.core.pages import page
from tilth.core.scope import in_tenant
from tilth.datasets.models import Check, DatasetVersion, File


def living() -> QuerySet[File]:
    """Files that are neither deleted nor expired."""
    return File.objects.filter(Q(expires_at=None) | Q(expires_at__gt=now()), deleted_at=None)


@in_tenant
def file_get(*, tenant: UUID, file: UUID) -> File:
    """A file; raises NotFound, also for one that is deleted or expired."""
    found = living().filter(id=file).first()
    if found is None:
        raise NotFound.of("file", public("file", file))
    return found


@in_tenant
def file_list(
    *, tenant: UUID, limit: int, after: UUID | None = None, purpose: str | None = None, ascending: bool = False
) -> tuple[list[File], bool]:
    """A page of files without their reports, newest first unless ascending, and whether there are more."""
    rows = (living().filter(purpose=purpose) if purpose else living()).defer("report")
    seen = File.objects.all()  # one that was deleted while the pages are read still says where to go on
    return page(rows, after=after, limit=limit, kind="file", ascending=ascending, among=seen)


@in_tenant
def file_count(*, tenant: UUID) -> int:
    """Of files that are there."""
    return living().count()


@in_tenant
def dataset_get(*, tenant: UUID, version: UUID) -> DatasetVersion:
    """A frozen version; raises NotFound."""
    found = DatasetVersion.objects.filter(id=version).first()
    if found is None:
        raise NotFound.of("dataset", public("dsv", version))
    return found


@in_tenant
def dataset_list(*, tenant: UUID, limit: int, after: UUID | None = None) -> tuple[list[DatasetVersion], bool]:
    """A page of frozen versions, newest first, and whether there are more."""
    return page(DatasetVersion.objects.all(), after=after, limit=limit, kind="dsv")


@in_tenant
def check_get(*, tenant: UUID, check: UUID) -> Check:
    """A check that was asked for; raises NotFound."""
    found = Check.objects.filter(id=check).first()
    if found is None:
        raise NotFound.of("check", public("check", check))
    return found
