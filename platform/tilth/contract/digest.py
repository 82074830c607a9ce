"""The digest of an adapter folder: one value that names exactly these bytes."""

import hashlib
from collections.abc import Mapping

MANIFEST = "MANIFEST.json"


def base_digest(base_model: str, revision: str) -> str:
    """Of a base model that answers alone, as it is named on offer."""
    return "sha256:" + hashlib.sha256("\0".join(("base", base_model, revision)).encode()).hexdigest()


def folder_digest(files: Mapping[str, str]) -> str:
    """``sha256:<hex>`` over name, NUL, sha256 hex, newline of each file in sorted order, the manifest left out."""
    whole = hashlib.sha256()
    for name in sorted(files):
        if name != MANIFEST:
            whole.update(f"{name}\0{files[name]}\n".encode())
    return f"sha256:{whole.hexdigest()}"
