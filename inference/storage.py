"""Object storage as a job may use it: nothing is read or written without a signed grant, and the key in it."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from uuid import uuid4

import fsspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from fsspec.core import url_to_fs
from tilth.contract.errors import GrantRefused
from tilth.contract.messages import REVOKED, Grant
from tilth.contract.sealing import seal, unsealed


def load_verify_key(path: Path) -> Ed25519PublicKey:
    """The control plane's public key; raises ValueError if the file holds another kind."""
    key = load_pem_public_key(path.read_bytes())
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"{path} holds a {type(key).__name__}; expected an Ed25519 public key (TILTH_VERIFY_KEY)")
    return key


class Storage:
    """Reads and writes by grants; on files the signature is all that stands between jobs."""

    def __init__(self, verify_key: Ed25519PublicKey, now: Callable[[], float] = time.time) -> None:
        self._verify_key = verify_key
        self._now = now

    def read(self, grant: Grant, name: str = "") -> bytes:
        """One object, or ``name`` below a prefix; FileNotFoundError, GrantRefused or SealBroken if it was changed."""
        data = b"".join(self._chunks(grant, name))
        if grant.sha256 and not name:
            _check(hashlib.sha256(data).hexdigest(), grant)
        return data

    @contextmanager
    def fetched(self, grant: Grant) -> Iterator[Path]:
        """A plain local copy for the time of the block; its sha256 is checked.

        The file has no name: however this process ends, nothing of it stays on disk.
        """
        whole = hashlib.sha256()
        with TemporaryFile() as file:
            for chunk in self._chunks(grant, ""):
                whole.update(chunk)
                file.write(chunk)
            file.flush()
            if grant.sha256:
                _check(whole.hexdigest(), grant)
            yield Path(f"/dev/fd/{file.fileno()}")

    def names(self, grant: Grant) -> list[str]:
        """Relative names of the objects below a prefix, sorted; none if there is nothing yet."""
        fs, path = self._open(grant, "read", "")
        root = path.rstrip("/") + "/"
        try:
            found = fs.find(root)
        except FileNotFoundError:
            return []
        return sorted(name.removeprefix(root) for name in found if not name.endswith(".part"))

    def write(self, grant: Grant, name: str, data: bytes) -> None:
        """Writes below a prefix; the object appears whole or not at all. Refused once the prefix was revoked."""
        fs, path = self._open(grant, "write", name)
        if fs.exists(f"{path.removesuffix(name)}{REVOKED}"):
            raise GrantRefused(f"the grant for {grant.url} was revoked: its attempt was given up")
        sealed = seal(data, bytes.fromhex(grant.key))
        if not _is_local(fs):
            fs.pipe_file(path, sealed)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{uuid4().hex}.part")
        try:
            with part.open("wb") as file:
                file.write(sealed)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        except OSError:
            part.unlink(missing_ok=True)
            raise

    def _chunks(self, grant: Grant, name: str) -> Iterator[bytes]:
        fs, path = self._open(grant, "read", name)
        with fs.open(path, "rb") as file:
            yield from unsealed(file, bytes.fromhex(grant.key))

    def _open(self, grant: Grant, method: str, name: str) -> tuple[fsspec.AbstractFileSystem, str]:
        self._verify(grant, method)
        if bool(name) and not grant.url.endswith("/"):
            raise GrantRefused(f"the grant names the one object {grant.url}; {name!r} below it was asked for")
        if name and (name.startswith("/") or "\0" in name or ".." in PurePosixPath(name).parts):
            raise GrantRefused(f"{name!r} leads out of the granted prefix")
        fs, path = url_to_fs(grant.url + name)
        if _is_local(fs) and _leads_away(path, name):
            raise GrantRefused(f"{grant.url}{name} is a link to another place")
        return fs, path

    def _verify(self, grant: Grant, method: str) -> None:
        try:
            self._verify_key.verify(bytes.fromhex(grant.signature), grant.signed_bytes())
        except (InvalidSignature, ValueError):
            raise GrantRefused(f"the grant for {grant.url} is not signed by the control plane") from None
        if grant.expires_at < self._now():
            raise GrantRefused(f"the grant for {grant.url} has expired; ask the control plane for a new one")
        if grant.method != method:
            raise GrantRefused(f"the grant for {grant.url} allows to {grant.method}, not to {method}")


def _is_local(fs: fsspec.AbstractFileSystem) -> bool:
    return "file" in (fs.protocol if isinstance(fs.protocol, tuple | list) else (fs.protocol,))


def _leads_away(path: str, name: str) -> bool:
    """Whether a link below the granted prefix makes the object another than its name says."""
    prefix = path.removesuffix(name) if name else os.path.dirname(path.rstrip("/"))
    inside = name or os.path.basename(path.rstrip("/"))
    return os.path.realpath(path) != os.path.join(os.path.realpath(prefix), inside.rstrip("/"))


def _check(found: str, grant: Grant) -> None:
    if found != grant.sha256:
        raise GrantRefused(f"{grant.url} has sha256 {found}, granted is {grant.sha256}; the object was changed")
