"""Checks a model's folder in storage against its manifest before anything believes in it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from tilth.contract.digest import MANIFEST, folder_digest
from tilth.contract.errors import SealBroken
from tilth.contract.messages import ServedBy
from tilth.core import storage

LARGEST = 16 << 20
"""Bytes of a manifest or a card."""


class FolderRefused(Exception):
    """The folder is not what its manifest, or the trainer, says; tells what was found."""


@dataclass(frozen=True)
class VerifiedFolder:
    """A folder whose every byte was hashed just now."""

    path: str
    """Below TILTH_ARTIFACTS, ends with a slash."""
    digest: str
    manifest: dict[str, Any]
    card: str
    served_by: ServedBy


def verify_folder(path: str, told: str) -> VerifiedFolder:
    """Hashes every file the manifest names; raises FolderRefused unless all agree with the digest that was told."""
    if storage.leads_away(path):
        raise FolderRefused(f"{path} is a link to another place")
    manifest = _manifest(path)
    hashes = {name: _sha256(path, name) for name in manifest["files"]}
    wrong = sorted(name for name, value in manifest["files"].items() if hashes[name] != value)
    if wrong:
        raise FolderRefused(f"{wrong[0]} below {path} has other bytes than its manifest says")
    digest = folder_digest(hashes)
    if not digest == manifest.get("digest") == told:
        raise FolderRefused(
            f"{path} has digest {digest}, its manifest says {manifest.get('digest')}, its trainer {told}"
        )
    card = _read(path, "README.md").decode(errors="replace") if "README.md" in hashes else ""
    return VerifiedFolder(path=path, digest=digest, manifest=manifest, card=card, served_by=_served_by(path, manifest))


def _served_by(path: str, manifest: dict[str, Any]) -> ServedBy:
    """Folders from before there was a choice say nothing and are adapters."""
    found = manifest.get("served_by", ServedBy.STACKED)
    if found not in set(ServedBy):
        raise FolderRefused(f"{path}{MANIFEST} says served_by {found!r}; hosts are {', '.join(ServedBy)}")
    return ServedBy(found)


def _manifest(path: str) -> dict[str, Any]:
    try:
        manifest = json.loads(_read(path, MANIFEST))
    except (ValueError, RecursionError) as cause:
        raise FolderRefused(f"{path}{MANIFEST} is no JSON: {cause}") from cause
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or not all(map(_plain, files)):
        raise FolderRefused(f"{path}{MANIFEST} lists no files, or files outside its folder")
    return dict(manifest)


def _plain(name: str) -> bool:
    """A file's name, and no way elsewhere."""
    return name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"}


def _sha256(path: str, name: str) -> str:
    whole = sha256()
    for chunk in _chunks(path, name):
        whole.update(chunk)
    return whole.hexdigest()


def _read(path: str, name: str) -> bytes:
    content = b""
    for chunk in _chunks(path, name):
        content += chunk
        if len(content) > LARGEST:
            raise FolderRefused(f"{name} below {path} is over {LARGEST >> 20} MiB")
    return content


def _chunks(path: str, name: str) -> Iterator[bytes]:
    """Refuses what is missing, a folder, or a link, which could lead to another tenant's files."""
    if storage.leads_away(path + name):
        raise FolderRefused(f"{name} below {path} is a link to another place")
    try:
        yield from storage.read_chunks(path + name)
    except (FileNotFoundError, IsADirectoryError):
        raise FolderRefused(f"{name} is missing below {path}") from None
    except SealBroken as cause:
        raise FolderRefused(f"{name} below {path}: {cause}") from cause
