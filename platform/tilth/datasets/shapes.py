"""How files, checks and frozen versions look to customers."""

from typing import Any

from tilth.core.clock import now
from tilth.core.ids import public
from tilth.datasets.models import Check, DatasetVersion, File, Upload, UploadPart


def file_shape(file: File) -> dict[str, Any]:
    """OpenAI's ``file``."""
    return {
        "id": public("file", file.id),
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created_at.timestamp()),
        "expires_at": int(file.expires_at.timestamp()) if file.expires_at else None,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": file.status,
        "status_details": file.status_details or None,
    }


def upload_shape(upload: Upload) -> dict[str, Any]:
    """OpenAI's ``upload``; pending beyond its time it is expired, swept or not."""
    late = upload.status == Upload.Status.PENDING and upload.expires_at <= now()
    return {
        "id": public("upload", upload.id),
        "object": "upload",
        "bytes": upload.bytes,
        "created_at": int(upload.created_at.timestamp()),
        "expires_at": int(upload.expires_at.timestamp()),
        "filename": upload.filename,
        "purpose": upload.purpose,
        "status": Upload.Status.EXPIRED if late else upload.status,
        "file": file_shape(upload.file) if upload.file else None,
    }


def part_shape(part: UploadPart) -> dict[str, Any]:
    """OpenAI's ``upload.part``."""
    return {
        "id": public("part", part.id),
        "object": "upload.part",
        "created_at": int(part.created_at.timestamp()),
        "upload_id": public("upload", part.upload_id),
    }


def dataset_shape(version: DatasetVersion) -> dict[str, Any]:
    """A frozen version."""
    return {
        "id": public("dsv", version.id),
        "object": "dataset",
        "created_at": int(version.created_at.timestamp()),
        "vertical": version.vertical,
        "training_file": public("file", version.training_file_id),
        "validation_file": _file(version.validation_file_id),
        "test_file": _file(version.test_file_id),
        "columns": version.columns,
        "kinds": version.kinds,
        "options": version.options,
        "sha256": version.sha256,
        "bytes": version.bytes,
        "rows": version.rows,
        "splits": version.splits,
    }


def check_shape(check: Check) -> dict[str, Any]:
    """A check: pending, passed with its report (and its version, if it was to freeze), or refused with the error."""
    return {
        "id": public("check", check.id),
        "object": "dataset.check",
        "created_at": int(check.created_at.timestamp()),
        "state": check.state,
        "vertical": check.vertical,
        "training_file": public("file", check.training_file_id),
        "validation_file": _file(check.validation_file_id),
        "test_file": _file(check.test_file_id),
        "columns": check.columns,
        "kinds": check.kinds,
        "options": check.options,
        "report": check.report,
        "error": check.error,
        "dataset": public("dsv", check.version_id) if check.version_id else None,
    }


def _file(id_: Any) -> str | None:
    return public("file", id_) if id_ else None
