"""The control plane's object storage: whole objects below TILTH_ARTIFACTS, sealed with the key of their tenant."""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from tilth.contract.messages import REVOKED
from tilth.contract.sealing import Sealer, unsealed
from tilth.core.disk import sync_folder
from tilth.core.keystore import KeyStore, group_key

CHUNK = 1 << 20
"""Bytes moved at once."""
PART = ".part"
"""Ends the name of a local file that is not complete yet."""


@dataclass(frozen=True)
class StoredObject:
    """A complete object: path below TILTH_ARTIFACTS; size in bytes and sha256 in hex, as it was before sealing."""

    path: str
    size: int
    sha256: str


def path(tenant: UUID, *parts: str) -> str:
    """``tenants/<hex>/…``: every object of a tenant lies below its own prefix."""
    return "/".join(("tenants", tenant.hex, *parts))


class Writer:
    """Writes one object piece by piece; ``commit`` makes it appear, ``abort`` leaves nothing. Raises KeyDestroyed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._sealer = Sealer(object_key(path))
        self._fs, self._full = _locate(path)
        self._sha256, self.size = hashlib.sha256(), 0
        self._part = _part_of(self._full) if _is_local(self._fs) else None
        self._file: Any = self._part.open("xb") if self._part else self._fs.open(self._full, "wb", autocommit=False)
        self._file.write(self._sealer.header)

    def write(self, data: bytes) -> None:
        """Appends."""
        self._sha256.update(data)
        self.size += len(data)
        self._file.write(self._sealer.update(data))

    def commit(self) -> StoredObject:
        """The object exists from now on, on disk; raises KeyDestroyed if its tenant was erased meanwhile."""
        object_key(self.path)
        self._file.write(self._sealer.finish())
        if self._part:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.replace(self._full)
            sync_folder(Path(self._full).parent)
        else:
            self._file.close()
            self._file.commit()
        return StoredObject(self.path, self.size, self._sha256.hexdigest())

    def abort(self) -> None:
        """Nothing was written."""
        if self._part:
            with suppress(OSError):  # closing writes what is left; a full disk refuses it once more
                self._file.close()
            self._part.unlink(missing_ok=True)
        else:
            self._file.discard()
            if self._fs.exists(self._full):  # not every file system keeps what is not committed to itself
                self._fs.rm(self._full)


def put_stream(path: str, chunks: Iterable[bytes]) -> StoredObject:
    """Writes a whole object; if the stream breaks off, there is none."""
    writer = Writer(path)
    try:
        for chunk in chunks:
            writer.write(chunk)
        return writer.commit()
    except BaseException:
        writer.abort()
        raise


def put_file(path: str, local: Path) -> StoredObject:
    """Copies a local file into storage."""
    with local.open("rb") as file:
        return put_stream(path, iter(lambda: file.read(CHUNK), b""))


def read_chunks(path: str) -> Iterator[bytes]:
    """An object's bytes, a mebibyte at a time; raises FileNotFoundError, KeyDestroyed, SealBroken."""
    fs, full = _locate(path)
    with fs.open(full, "rb") as file:
        yield from unsealed(file, object_key(path))


def read(path: str) -> bytes:
    """A small object whole; raises as ``read_chunks``."""
    return b"".join(read_chunks(path))


@contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """The object as a plain local file, ours alone, for the time of the block; raises as ``read_chunks``."""
    with scratch_folder() as folder:
        local = folder / "object"
        with local.open("xb") as file:
            for chunk in read_chunks(path):
                file.write(chunk)
        yield local


def exists(path: str) -> bool:
    """Whether there is such an object."""
    fs, full = _locate(path)
    return bool(fs.exists(full))


def leads_away(path: str) -> bool:
    """Whether a link on the way makes it another place than its name says; on files only."""
    fs, full = _locate(path)
    root = str(url_to_fs(settings.ENV.artifacts)[1])
    return _is_local(fs) and os.path.realpath(full) != os.path.join(os.path.realpath(root), path.strip("/"))


def names(prefix: str) -> list[str]:
    """Names directly below a prefix, sorted; none if there is no such prefix."""
    fs, full = _locate(prefix)
    try:
        return sorted(name.rstrip("/").rpartition("/")[2] for name in fs.ls(full, detail=False))
    except FileNotFoundError:
        return []


def walk(prefix: str) -> Iterator[str]:
    """Relative names of all complete objects below a prefix, sorted."""
    fs, full = _locate(prefix)
    for name in sorted(fs.find(full)) if fs.exists(full) else []:
        if not name.endswith(PART):
            yield name.removeprefix(f"{full}/")


def revoke(prefix: str) -> None:
    """From now on no grant writes below the prefix (ends with a slash); doing it twice changes nothing."""
    put_stream(prefix + REVOKED, [])


def delete_prefix(prefix: str) -> None:
    """Removes every object below a prefix; doing it twice changes nothing."""
    fs, full = _locate(prefix)
    if _is_local(fs):
        shutil.rmtree(full, ignore_errors=True)
    elif fs.exists(full):
        fs.rm(full, recursive=True)


def scratch() -> Path:
    """A folder for what may be lost at any time."""
    folder = Path(settings.ENV.var) / "scratch"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for the time of the block, ours alone; its name tells the sweep whose it is, should we be killed."""
    made = Path(mkdtemp(prefix=f"{os.getpid()}-", dir=scratch()))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def key_store() -> KeyStore:
    """The one of this installation."""
    return KeyStore(settings.ENV.keystore, is_new=lambda tenant: not exists(f"tenants/{tenant.hex}"))


def object_key(path: str) -> bytes:
    """What an object, or what lies below a prefix, is sealed with; raises KeyDestroyed."""
    return group_key(key_store(), path)


def _locate(path: str) -> tuple[Any, str]:
    """The file system and the full path; refuses what would lead out of the tenants' prefixes."""
    if any(part in ("", ".", "..") for part in path.strip("/").split("/")):
        raise ValueError(f"{path!r} is no path below TILTH_ARTIFACTS")
    fs, full = url_to_fs(f"{settings.ENV.artifacts}/{path}")
    return fs, str(full)


def _part_of(full: str) -> Path:
    target = Path(full)
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.with_name(f".{target.name}.{uuid4().hex}{PART}")


def _is_local(fs: Any) -> bool:
    return isinstance(fs, LocalFileSystem)
