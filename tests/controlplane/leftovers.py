"""What a web process leaves in storage."""

from pathlib import Path
from typing import Any

from tilth.core import storage


def left_behind(artifacts: Path, tenant: Any) -> list[Path]:
    return [path for path in (artifacts / "tenants" / tenant.id.hex).rglob("*") if path.is_file()]


def kept(artifacts: Path, tenant: Any) -> list[bytes]:
    """The same, opened."""
    return [storage.read(str(path.relative_to(artifacts))) for path in left_behind(artifacts, tenant)]
