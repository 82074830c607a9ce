"""A product without its processes: real PostgreSQL, real objects and keys, and places for its copies."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tilth.core import storage
from tilth.dataplane.access import grants
from tilth.local.backup import backup
from tilth.local.kept import Kept
from tilth.local.postgres import Postgres, binaries
from tilth.local.restore import restore

ROWS = b"text,label\n" + b"".join(f"message number {n},{'ab'[n % 2]}\n".encode() for n in range(40))


@dataclass
class Copies:
    """A product's place, and where its copies go."""

    product: Kept
    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "backup"

    @property
    def keys(self) -> Path:
        return self.root / "mirror"

    def backup(self) -> Any:
        return backup(self.product, self.folder, self.keys, lambda _: None)

    def restore(self, target: Kept) -> Any:
        (self.root / "new").mkdir(exist_ok=True)
        return restore(target, self.root / "new", self.folder, self.keys, lambda _: None)

    def target(self, server: Postgres | None = None) -> Kept:
        keys = self.root / "new" / "keys"
        secrets = {name: keys / name for name in self.product.secrets}
        artifacts = f"file://{self.root}/new/artifacts"
        return replace(self.product, artifacts=artifacts, keystore=keys / "tenants", secrets=secrets, server=server)


@pytest.fixture
def copies(
    database: Postgres, clean_database: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Copies]:
    from django.conf import settings

    artifacts, keystore = f"file://{tmp_path}/artifacts", tmp_path / "keys" / "tenants"
    monkeypatch.setattr(settings, "ENV", replace(settings.ENV, artifacts=artifacts, keystore=keystore))
    secrets = {"signing.pem": settings.ENV.signing_key}
    grants.cache_clear()  # it remembers where the artifacts were
    yield Copies(Kept(artifacts, keystore, secrets, binaries(), database, "", {}), tmp_path)
    grants.cache_clear()


@pytest.fixture
def upload(copies: Copies) -> Callable[[Any, bytes], Any]:
    """An uploaded file of an organisation."""
    from tilth.core.ids import uuid7
    from tilth.datasets.services import file_create, file_path

    def make(tenant: Any, content: bytes = ROWS, filename: str = "rows.csv") -> Any:
        file = uuid7()
        stored = storage.put_stream(file_path(tenant.id, file), [content])
        by = tenant.principal
        return file_create(
            tenant=tenant.id, by=by, file=file, stored=stored, filename=filename, purpose="fine-tune"
        )  # fmt: skip

    return make


@pytest.fixture
def fresh() -> Iterator[Postgres]:
    """Another server, not made yet."""
    home = Path(tempfile.mkdtemp(prefix="tilth-pg-"))
    home.chmod(0o755)
    server = Postgres(home / "pg", fast=True)
    yield server
    server.stop()
    shutil.rmtree(home)
