"""``tilth backup``: one snapshot of the database, then every object; the keys go elsewhere; the manifest comes last."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from tilth.core.keystore import KeysDiffer, KeyStore
from tilth.local.dump import Snapshot, dump, snapshot
from tilth.local.kept import Kept
from tilth.local.keys import write_secret
from tilth.local.manifest import CHUNK, BackupRefused, Manifest, sha256

DATABASE, ARTIFACTS = "database.dump", "artifacts"
Told = Callable[[str], object]


def backup(product: Kept, to: Path, keys: Path, told: Told) -> Manifest:
    """Copies a product, at work or not, into an empty folder and its keys into another; raises BackupRefused.

    Rows come first: an object is complete before its row is and outlives it, and what rows name is not deleted
    meanwhile, so whatever the copied rows name is copied, too.
    """
    _refuse_places(to, keys)
    to.mkdir(parents=True, exist_ok=True, mode=0o700)
    with snapshot(product.database()) as taken:
        told(f"database: {sum(taken.rows.values()):,} rows as of {taken.made_at}")
        dump(product.programs, product.database(), taken, to / DATABASE)
        copied = Copy(to / ARTIFACTS)
        copied.take(product.artifacts)
    told(f"artifacts: {len(copied.sums):,} objects, {copied.bytes:,} bytes")
    _refuse_missing(taken, copied)
    mirror_keys(product, keys)
    files = {DATABASE: sha256(to / DATABASE)} | {f"{ARTIFACTS}/{name}": told for name, told in copied.sums.items()}
    size = copied.bytes + (to / DATABASE).stat().st_size
    made = Manifest(taken.made_at, taken.migrations, taken.rows, files, size)
    made.write(to)
    return made


@dataclass
class Copy:
    """Objects copied as they lie: sealed."""

    to: Path
    sums: dict[str, str] = field(default_factory=dict)
    """Name → sha256."""
    bytes: int = 0

    def take(self, artifacts: str) -> None:
        """Trainers' events first: what an event tells of was written before it, and so is found after it."""
        self.to.mkdir(mode=0o700)
        fs, root = url_to_fs(artifacts)
        for wanted in (_is_event, lambda name: not _is_event(name)):
            for name in _names(fs, root):
                if wanted(name):
                    self._one(fs, root, name)

    def _one(self, fs: Any, root: str, name: str) -> None:
        target, whole = self.to / name, hashlib.sha256()
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with fs.open(f"{root}/{name}", "rb") as source, target.open("wb") as copy:
                while chunk := source.read(CHUNK):
                    whole.update(chunk)
                    self.bytes += copy.write(chunk)
        except FileNotFoundError:  # an upload that was refused or broken off: no row has named it
            target.unlink(missing_ok=True)
            return
        self.sums[name] = whole.hexdigest()


def mirror_keys(product: Kept, to: Path) -> None:
    """The tenants' keys and the product's own; a key destroyed since the last time is replaced by its tombstone."""
    to.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        KeyStore(to / "tenants").take_over(KeyStore(product.keystore))
    except KeysDiffer as fault:
        raise BackupRefused(str(fault)) from fault
    for name, path in product.secrets.items():
        if path.exists():
            write_secret(to / name, path.read_bytes())


def _names(fs: Any, root: str) -> Iterator[str]:
    """Of every complete object."""
    for name in sorted(fs.find(root)):
        if not name.endswith(".part"):
            yield name.removeprefix(f"{root.rstrip('/')}/")


def _is_event(name: str) -> bool:
    return "/events/" in name


def _refuse_missing(taken: Snapshot, copied: Copy) -> None:
    folders = {name.rpartition("/")[0] + "/" for name in copied.sums}
    if missing := [path for path in taken.objects if path not in copied.sums and path not in folders]:
        raise BackupRefused(f"{len(missing)} objects that rows name are not in storage, the first {missing[0]}")


def _refuse_places(to: Path, keys: Path) -> None:
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise BackupRefused(f"{to} is not an empty folder; a backup is never written over another")
    if keys.resolve().is_relative_to(to.resolve()) or to.resolve().is_relative_to(keys.resolve()):
        raise BackupRefused(f"{keys} and {to} lie in each other; keys beside the backup would make erasing them vain")
