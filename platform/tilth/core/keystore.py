"""One data key per tenant, in a folder beside the database: destroying it makes all that it sealed unreadable."""

import json
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from uuid import UUID, uuid4

from tilth.contract.sealing import KEY, derived
from tilth.core.disk import sync_folder
from tilth.core.errors import NotFound, Unavailable


class KeyDestroyed(NotFound):
    """The tenant was erased: nothing of it can be read or written any more, for ever."""

    code = "tenant_erased"


class KeyMissing(Unavailable):
    """The tenant has sealed objects and no key: the key store is not where it was, or was lost."""

    code = "key_missing"


class KeysDiffer(RuntimeError):
    """Two stores know different keys of one tenant."""


@dataclass(frozen=True)
class Tombstone:
    """What stays of a destroyed key."""

    tenant: str
    """Hex."""
    key_sha256: str
    """Of the destroyed key's bytes."""
    destroyed_at: str
    """ISO 8601, UTC."""


class KeyStore:
    """A file for each tenant, ``<hex>``, mode 0600: its key in hex, or its tombstone in JSON; never both.

    A tombstone replaces the key in one rename and is never replaced: no race and no older copy makes a key anew.
    ``is_new`` says whether a tenant has nothing sealed yet, so that a store that was lost is never begun anew.
    """

    def __init__(self, folder: Path, is_new: Callable[[UUID], bool] = lambda tenant: True) -> None:
        self._folder = folder
        self._is_new = is_new

    def key(self, tenant: UUID) -> bytes:
        """The tenant's key, made when it is first asked for, and on disk by then; raises KeyDestroyed, KeyMissing."""
        path = self._folder / tenant.hex
        try:
            return _key_in(path)
        except FileNotFoundError:
            if not self._is_new(tenant) and not path.exists():
                raise KeyMissing(f"There is no key for the objects of {tenant.hex}; is TILTH_KEYSTORE right?") from None
            self._make(path)
            return _key_in(path)

    def tombstone(self, tenant: UUID) -> Tombstone | None:
        """What is left of a destroyed key; None while it is good, or was never made."""
        try:
            return _tombstone_in(self._folder / tenant.hex)
        except FileNotFoundError:
            return None

    def tenants(self) -> Iterator[UUID]:
        """Whose key or tombstone is here."""
        for path in sorted(self._folder.glob("[0-9a-f]" * 32)):
            yield UUID(hex=path.name)

    def destroy(self, tenant: UUID, at: str) -> Tombstone:
        """Puts the tombstone in the key's place, then overwrites the key's bytes; twice changes nothing.

        A key that was never needed is made and buried, so that none can come later.
        """
        if (stands := self.tombstone(tenant)) is not None:
            return stands
        tombstone = Tombstone(tenant.hex, sha256(self.key(tenant)).hexdigest(), at)
        self._exchange(self._folder / tenant.hex, json.dumps(vars(tombstone)).encode())
        return tombstone

    def take_over(self, other: "KeyStore") -> None:
        """Becomes a mirror of another: new keys come, destroyed ones go; what is buried here stays so.

        Raises KeysDiffer for a tenant with another key here: one of the two opens its objects, and is not thrown away.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for tenant in other.tenants():
            path, theirs = self._folder / tenant.hex, (other._folder / tenant.hex).read_bytes()
            if not path.exists():
                self._written(theirs).replace(path)
            elif self.tombstone(tenant) is None and path.read_bytes() != theirs:
                if other.tombstone(tenant) is None:
                    raise KeysDiffer(
                        f"{path} and {other._folder / tenant.hex} are different keys; keep both, find out why"
                    )
                self._exchange(path, theirs)
        sync_folder(self._folder)

    def _exchange(self, path: Path, data: bytes) -> None:
        """In one rename; only then are the former bytes overwritten where they lay."""
        with path.open("r+b") as old:
            size = len(old.read())
            self._written(data).replace(path)
            sync_folder(self._folder)
            old.seek(0)
            old.write(bytes(size))
            old.flush()
            os.fsync(old.fileno())

    def _make(self, path: Path) -> None:
        """Linked, not renamed: whoever comes second takes the first one's."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = self._written(secrets.token_bytes(KEY).hex().encode())
        try:
            path.hardlink_to(part)
        except FileExistsError:
            pass
        finally:
            part.unlink()
        sync_folder(self._folder)

    def _written(self, data: bytes) -> Path:
        """A file of another name, on disk."""
        part = self._folder / f".{uuid4().hex}.part"
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return part


def object_group(path: str) -> tuple[UUID, str]:
    """(tenant, ``tenants/<hex>/<kind>/<id>``) of a path below TILTH_ARTIFACTS: what is sealed with one key.

    Raises ValueError for a path that lies in no group.
    """
    match path.split("/"):
        case ["tenants", tenant, kind, of, *_] if kind and of:
            return UUID(hex=tenant), f"tenants/{tenant}/{kind}/{of}"
    raise ValueError(f"{path!r} is no path below tenants/<hex>/<kind>/<id>")


def group_key(store: KeyStore, path: str) -> bytes:
    """The key of the group that a path lies in; raises KeyDestroyed."""
    tenant, group = object_group(path)
    return derived(store.key(tenant), group)


def _key_in(path: Path) -> bytes:
    text = path.read_bytes()
    if text.startswith(b"{"):
        raise KeyDestroyed("This organisation was erased; what it kept here can be read by nobody.")
    if len(key := bytes.fromhex(text.decode())) != KEY:
        raise ValueError(f"{path} holds {len(key)} bytes; a tenant's key has {KEY}. Restore it from the keys' mirror")
    return key


def _tombstone_in(path: Path) -> Tombstone | None:
    text = path.read_bytes()
    return Tombstone(**json.loads(text)) if text.startswith(b"{") else None
