"""What a web process leaves in storage."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tilth.core import storage


def left_behind(artifacts: Path, tenant: Any) -> list[Path]:
    return [path for path in (artifacts / "tenants" / tenant.id.hex).rglob("*") if path.is_file()]


def kept(artifacts: Path, tenant: Any) -> list[bytes]:
    """The same, opened."""
    return [storage.read(str(path.relative_to(artifacts))) for path in left_behind(artifacts, tenant)]


def eventually(true: Callable[[], bool]) -> None:
    for _ in range(100):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come true")
