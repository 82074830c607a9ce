"""Uploads in parts: opened, given parts in any order and at any time, made a file once, or closed without one."""

from collections.abc import Sequence
from datetime import timedelta
from hashlib import sha256
from typing import cast
from uuid import UUID

from django.db.models import Count, Sum
from procrastinate.contrib.django import app

from tilth.core import storage
from tilth.core.clock import now
from tilth.core.errors import Invalid, NotFound
from tilth.core.ids import public
from tilth.core.scope import in_tenant
from tilth.core.storage import StoredObject
from tilth.datasets.models import File, Upload, UploadPart
from tilth.datasets.services import clean, file_create, refuse_wish
from tilth.tenants.principal import Principal
from tilth.tenants.services import audit

PART_BYTES = 64 << 20
TOTAL_BYTES = 8 << 30
MOST_PARTS = 10_000
LIFE = timedelta(hours=1)
TOLD = 5
"""Parts that an error names."""


def part_path(tenant: UUID, upload: UUID, part: UUID) -> str:
    """Where the bytes of a part lie."""
    return storage.path(tenant, "uploads", upload.hex, part.hex, "raw")


@in_tenant
def upload_create(
    *, tenant: UUID, by: Principal, filename: str, purpose: str, size: int, expires_after_s: int | None = None
) -> Upload:
    """Opens an upload of ``size`` bytes for an hour; ``expires_after_s`` is the life of the file. Raises Invalid."""
    refuse_wish(purpose, expires_after_s)
    if not 1 <= size <= TOTAL_BYTES:
        raise Invalid(f"An upload has 1 to {TOTAL_BYTES:,} bytes, found {size:,}.", param="bytes")
    made = Upload.objects.create(
        filename=clean(filename), purpose=purpose, bytes=size, expires_after_s=expires_after_s, expires_at=now() + LIFE
    )
    audit(by.actor, "upload.create", made.id.hex, filename=made.filename, bytes=size)
    return made


@in_tenant
def upload_taking(*, tenant: UUID, upload: UUID) -> None:
    """Raises NotFound, or Invalid for an upload that takes no more parts."""
    _refuse_late(_found(Upload.objects.filter(id=upload).first(), upload))


@in_tenant
def part_create(*, tenant: UUID, upload: UUID, part: UUID, stored: StoredObject) -> UploadPart:
    """The row of a stored part, which has the id ``part``; raises NotFound, Invalid.

    A part that is sent twice is two parts: which of them make the file is said when the upload is completed. So two
    equal parts of one file stay two, and a retry whose first try was heard after all changes nothing.
    """
    found = _found(Upload.locked(id=upload), upload)
    _refuse_late(found)
    _refuse_size(found, stored.size)
    return UploadPart.objects.create(id=part, upload=found, bytes=stored.size, path=stored.path)


@in_tenant
def upload_plan(*, tenant: UUID, upload: UUID, part_ids: Sequence[str]) -> tuple[Upload, list[str]]:
    """The upload and where its parts lie, in the order of the file; no parts if the file is made of them already.

    Raises NotFound, and Invalid for parts that do not make up the file, or an upload that is closed.
    """
    found = _found(Upload.objects.select_related("file").filter(id=upload).first(), upload)
    if found.status == Upload.Status.COMPLETED:
        _refuse_other_order(found, part_ids)
        return found, []
    _refuse_late(found)
    return found, [part.path for part in _ordered(found, part_ids)]


@in_tenant
def upload_complete(
    *, tenant: UUID, by: Principal, upload: UUID, part_ids: Sequence[str], file: UUID, stored: StoredObject
) -> File:
    """The file of an upload, whose bytes are stored under the id ``file``; the one made before, if there is one.

    Raises Invalid if the upload was closed meanwhile; an hour that ended while its parts were read does not count.
    """
    found = _found(Upload.locked(id=upload), upload)
    if found.status == Upload.Status.COMPLETED:
        _refuse_other_order(found, part_ids)
        return cast(File, found.file)
    _refuse_closed(found)
    made = file_create(
        tenant=tenant, by=by, file=file, filename=found.filename, purpose=found.purpose, stored=stored,
        expires_after_s=found.expires_after_s,
    )  # fmt: skip
    found.file, found.order = made, _order(part_ids)
    _close(found, Upload.Status.COMPLETED)
    return made


@in_tenant
def upload_cancel(*, tenant: UUID, by: Principal, upload: UUID) -> Upload:
    """Closes an upload without a file; twice changes nothing. Raises NotFound, Invalid if it is closed otherwise."""
    found = _found(Upload.locked(id=upload), upload)
    if found.status != Upload.Status.CANCELLED:
        _refuse_late(found)
        _close(found, Upload.Status.CANCELLED)
        audit(by.actor, "upload.cancel", upload.hex, filename=found.filename)
    return found


@in_tenant
def upload_expire(*, tenant: UUID, upload: UUID) -> None:
    """Closes an upload whose hour is over; twice changes nothing."""
    found = Upload.locked(id=upload, status=Upload.Status.PENDING, expires_at__lte=now())
    if found is not None:
        _close(found, Upload.Status.EXPIRED)


def _close(upload: Upload, status: Upload.Status) -> None:
    """The parts' bytes go after the commit, by the worker."""
    upload.status = status
    upload.save(update_fields=["status", "file", "order"])
    upload.parts.all().delete()
    app.configure_task("datasets.remove_parts").defer(tenant=upload.tenant_id.hex, upload=upload.id.hex)


def _found(upload: Upload | None, id_: UUID) -> Upload:
    if upload is None:
        raise NotFound.of("upload", public("upload", id_))
    return upload


def _refuse_late(upload: Upload) -> None:
    _refuse_closed(upload)
    if upload.expires_at <= now():
        raise _closed(Upload.Status.EXPIRED)


def _refuse_closed(upload: Upload) -> None:
    if upload.status != Upload.Status.PENDING:
        raise _closed(upload.status)


def _closed(status: str) -> Invalid:
    return Invalid(f"The upload is {status}; create a new one.", code=f"upload_{status}")


def _refuse_size(upload: Upload, size: int) -> None:
    """A part's own size, and what one upload may keep: every byte twice, for parts sent again, and one part."""
    if not 1 <= size <= PART_BYTES:
        raise Invalid(f"A part has 1 to {PART_BYTES:,} bytes, found {size:,}.", param="data", code="part_size")
    kept = upload.parts.aggregate(bytes=Sum("bytes", default=0), count=Count("id"))
    if kept["bytes"] + size > 2 * upload.bytes + PART_BYTES or kept["count"] >= MOST_PARTS:
        raise Invalid(
            f"The upload of {upload.bytes:,} bytes has {kept['count']:,} parts with {kept['bytes']:,} bytes already; "
            "complete it, or cancel it and begin anew with larger parts.",
            param="data",
            code="too_many_parts",
        )


def _ordered(upload: Upload, part_ids: Sequence[str]) -> list[UploadPart]:
    """The parts that are named; raises Invalid unless they make up the file."""
    known = {public("part", part.id): part for part in upload.parts.order_by("id")}
    places: dict[str, int] = {}
    for place, id_ in enumerate(part_ids):
        if id_ not in known:
            message = f"part_ids[{place}] is {id_[:80]!r}, which is no part of this upload"
            raise Invalid(f"{message}; {_unnamed(known, places)}.", param="part_ids", code="unknown_part")
        if id_ in places:
            message = f"part_ids names {id_} twice, at {places[id_]} and at {place}; name each part once"
            raise Invalid(f"{message}.", param="part_ids", code="part_twice")
        places[id_] = place
    ordered = [known[id_] for id_ in part_ids]
    if (size := sum(part.bytes for part in ordered)) != upload.bytes:
        message = f"The parts named have {size:,} bytes, but the upload was opened for {upload.bytes:,}"
        raise Invalid(f"{message}; {_unnamed(known, places)}.", param="part_ids", code="wrong_size")
    return ordered


def _unnamed(known: dict[str, UploadPart], named: dict[str, int]) -> str:
    """Which parts there are beside the named ones, so that a lost id can be found again."""
    left = [f"{id_} ({part.bytes:,} bytes)" for id_, part in known.items() if id_ not in named]
    more = f" and {len(left) - TOLD:,} more" if len(left) > TOLD else ""
    return f"not named are {', '.join(left[:TOLD])}{more}" if left else "it has no other parts"


def _refuse_other_order(upload: Upload, part_ids: Sequence[str]) -> None:
    if upload.order != _order(part_ids):
        raise Invalid(
            "The upload is completed already, with other parts or in another order.",
            param="part_ids",
            code="upload_completed",
        )


def _order(part_ids: Sequence[str]) -> str:
    return sha256("\n".join(part_ids).encode()).hexdigest()
