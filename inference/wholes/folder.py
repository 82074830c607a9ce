"""The folder of a whole model as read: its own files, features, digest of the bytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tilth.contract.digest import MANIFEST
from tilth.contract.messages import ServedBy

from inference.adapters.folder import CARD, FEATURES, FolderRefused, checked, read_json

ENDINGS = (".safetensors", ".json", ".txt")
"""Of a model's own files: nothing that runs when it is read."""


@dataclass(frozen=True)
class WholeFolder:
    """Everything of a model but its answers."""

    files: dict[str, bytes]
    """Its own, without features, card and manifest."""
    features: dict[str, Any]
    kind: str
    """The candidate that learned it."""
    digest: str
    """Computed from the bytes, not read from the manifest."""


def read_whole(files: Mapping[str, bytes]) -> WholeFolder:
    """Checks and reads a folder; raises FolderRefused with what was found and what was expected."""
    own = {name: content for name, content in files.items() if name not in (FEATURES, CARD, MANIFEST)}
    if foreign := sorted(name for name in own if not name.endswith(ENDINGS)):
        raise FolderRefused(f"the folder holds {', '.join(foreign)}; only safetensors, JSON and text are allowed")
    manifest, digest = checked(files, {FEATURES})
    if manifest.get("served_by") != ServedBy.WHOLE:
        raise FolderRefused(f"the folder is served by {manifest.get('served_by')!r}; a whole model is expected here")
    features = read_json(files, FEATURES)
    return WholeFolder(own, features, str(features.get("candidate")), digest)
