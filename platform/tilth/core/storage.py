"""The control plane's object storage: whole objects below TILTH_ARTIFACTS, which appear complete or not at all."""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, cast
from uuid import UUID, uuid4

from django.conf import settings
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from tilth.contract.messages import REVOKED

CHUNK = 1 << 20
"""Bytes moved at once."""
PART = ".part"
"""Ends the name of a local file that is not complete yet."""


@dataclass(frozen=True)
class StoredObject:
    """A complete object: path below TILTH_ARTIFACTS, size in bytes, sha256 in hex."""

    path: str
    size: int
    sha256: str


def path(tenant: UUID, *parts: str) -> str:
    """``tenants/<hex>/…``: every object of a tenant lies below its own prefix."""
    return "/".join(("tenants", tenant.hex, *parts))


class Writer:
    """Writes one object piece by piece; ``commit`` makes it appear, ``abort`` leaves nothing."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fs, self._full = _locate(path)
        self._sha256, self.size = hashlib.sha256(), 0
        self._part = _part_of(self._full) if _is_local(self._fs) else None
        self._file: Any = self._part.open("xb") if self._part else self._fs.open(self._full, "wb", autocommit=False)

    def write(self, data: bytes) -> None:
        """Appends."""
        self._sha256.update(data)
        self.size += len(data)
        self._file.write(data)

    def commit(self) -> StoredObject:
        """The object exists from now on, on disk."""
        if self._part:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.replace(self._full)
            _sync_folder(Path(self._full).parent)
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


def open(path: str) -> BinaryIO:
    """Opens an object for reading; FileNotFoundError."""
    fs, full = _locate(path)
    return cast(BinaryIO, fs.open(full, "rb"))


def read_chunks(path: str) -> Iterator[bytes]:
    """An object's bytes, a mebibyte at a time; FileNotFoundError."""
    with open(path) as file:
        while chunk := file.read(CHUNK):
            yield chunk


@contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """The object as a local file: in place on files, else downloaded for the time of the block; FileNotFoundError."""
    fs, full = _locate(path)
    if _is_local(fs):
        if not Path(full).is_file():
            raise FileNotFoundError(full)
        yield Path(full)
        return
    with TemporaryDirectory(dir=scratch()) as folder:
        local = Path(folder) / "object"
        fs.get_file(full, str(local))
        yield local


def exists(path: str) -> bool:
    """Whether there is such an object."""
    fs, full = _locate(path)
    return bool(fs.exists(full))


def names(prefix: str) -> list[str]:
    """Names directly below a prefix, sorted; none if there is no such prefix."""
    fs, full = _locate(prefix)
    try:
        return sorted(name.rstrip("/").rpartition("/")[2] for name in fs.ls(full, detail=False))
    except FileNotFoundError:
        return []


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
    folder.mkdir(parents=True, exist_ok=True)
    return folder


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


def _sync_folder(folder: Path) -> None:
    """A renamed file is on disk under its new name only when its folder is."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _is_local(fs: Any) -> bool:
    return isinstance(fs, LocalFileSystem)
