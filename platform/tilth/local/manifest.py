"""The last file of a backup: it names every other with its sha256, so that a backup is whole or none."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

CHUNK = 1 << 20
FORMAT = 1
NAME = "MANIFEST.json"


class BackupRefused(RuntimeError):
    """A backup cannot be made, or is not what it must be; the message says what was found and what to do."""


@dataclass(frozen=True)
class Manifest:
    """What a backup holds."""

    made_at: str
    """ISO 8601, UTC: when its snapshot of the database was taken."""
    migrations: list[str]
    """Of the schema, ``app.name``."""
    rows: dict[str, int]
    """Table → rows."""
    files: dict[str, str]
    """Name below the folder → sha256."""
    bytes: int
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Once everything else is on disk."""
        os.sync()
        part = folder / f".{NAME}.part"
        with part.open("w") as file:
            json.dump(asdict(self), file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        part.replace(folder / NAME)
        os.sync()


def read_manifest(folder: Path) -> Manifest:
    """Raises BackupRefused for a folder that is no whole backup of ours."""
    try:
        found = json.loads((folder / NAME).read_bytes())
    except FileNotFoundError:
        raise BackupRefused(f"{folder} has no {NAME}: it is no backup, or one that was broken off") from None
    except ValueError as cause:
        raise BackupRefused(f"{folder / NAME} is no JSON ({cause}); take another backup") from cause
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise BackupRefused(f"{folder / NAME} is not of format {FORMAT}; it was made by another version")
    return Manifest(**found)


def verify(folder: Path, manifest: Manifest) -> None:
    """Raises BackupRefused naming the first file that is missing, foreign or has another byte than when it was made."""
    present = set(names(folder))
    for name, told in sorted(manifest.files.items()):
        if name not in present:
            raise BackupRefused(f"{folder / name} is missing; take another backup")
        if (found := sha256(folder / name)) != told:
            raise BackupRefused(f"{folder / name} has sha256 {found}, the manifest says {told}; take another backup")
    if foreign := sorted(present - set(manifest.files)):
        raise BackupRefused(f"{folder / foreign[0]} is not part of the backup; remove it")


def names(folder: Path) -> Iterator[str]:
    """Of every file below, the manifest left out."""
    for path in folder.rglob("*"):
        if path.is_file() and path != folder / NAME:
            yield str(path.relative_to(folder))


def sha256(path: Path) -> str:
    """Hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
