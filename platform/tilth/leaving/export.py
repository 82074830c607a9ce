"""All that an organisation has here, as one zip: its rows as JSON Lines, its objects plain, a manifest of sha256."""

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from django.conf import settings

from tilth.core import storage
from tilth.core.clock import now
from tilth.core.errors import NotFound
from tilth.core.sealed import opened
from tilth.leaving.rows import rows_of, scoped, tables

MANIFEST = "MANIFEST.json"


def tenant_export(*, tenant: UUID, to: Path) -> dict[str, str]:
    """Writes the zip, whole or not at all, and returns its manifest: name → sha256.

    One snapshot of the rows, then the objects; a mebibyte at a time. Raises NotFound, KeyDestroyed.
    """
    if storage.key_store().tombstone(tenant) is not None:
        raise NotFound("This organisation was erased; there is nothing to export.")
    part = to.with_name(f".{to.name}.part")
    part.unlink(missing_ok=True)
    try:
        with open(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b") as file:
            sums = _written(tenant, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(to)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return sums


def _written(tenant: UUID, file: Any) -> dict[str, str]:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        sums = dict(_rows(archive, tenant))
        for name in storage.walk(f"tenants/{tenant.hex}"):
            sums[f"objects/{name}"] = _member(
                archive, f"objects/{name}", storage.read_chunks(f"tenants/{tenant.hex}/{name}")
            )
        told = {"organisation": tenant.hex, "made_at": now().isoformat(), "files": sums}
        archive.writestr(MANIFEST, json.dumps(told, indent=1, sort_keys=True))
    return sums


def _rows(archive: zipfile.ZipFile, tenant: UUID) -> Iterator[tuple[str, str]]:
    with psycopg.connect(settings.ENV.database_url, autocommit=True) as db:
        db.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with scoped(db, tenant):
            if db.execute("SELECT FROM tenants_organisation WHERE id = %s", [tenant]).fetchone() is None:
                raise NotFound.of("organisation", tenant.hex)
            for table in tables(db):
                lines = (json.dumps(_plain(row)).encode() + b"\n" for row in rows_of(db, table, tenant))
                yield f"rows/{table}.jsonl", _member(archive, f"rows/{table}.jsonl", lines)


def _plain(row: dict[str, object]) -> dict[str, object]:
    return {name: opened(value) for name, value in row.items()}


def _member(archive: zipfile.ZipFile, name: str, chunks: Iterable[bytes]) -> str:
    whole = hashlib.sha256()
    with archive.open(name, "w", force_zip64=True) as member:
        for chunk in chunks:
            whole.update(chunk)
            member.write(chunk)
    return whole.hexdigest()
