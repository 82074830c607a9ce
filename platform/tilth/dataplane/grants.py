"""Grants: leave to read or write one object or prefix, signed with the control plane's key."""

import time
from collections.abc import Callable
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tilth.contract.messages import Grant
from tilth.core.storage import object_key

JOB_LIFE_S = 24 * 3600
"""Beyond the device time that an attempt may take; the attempt's own prefix bounds what its grants reach."""
READ_LIFE_S = 3600
"""Grants of one call: events, loading a model."""


class Grants:
    """Signs grants below the root of the artifacts (an fsspec URL without a trailing slash).

    ``keys`` gives the key of the objects at a path: that of one file, dataset or job, never a tenant's.
    """

    def __init__(
        self,
        key: Ed25519PrivateKey,
        root: str,
        keys: Callable[[str], bytes] = object_key,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._key = key
        self._root = root
        self._keys = keys
        self._now = now

    def read(self, path: str, *, sha256: str | None = None, life_s: int = READ_LIFE_S) -> Grant:
        """Read of an object (``sha256`` as hex), or of a prefix if the path ends with a slash."""
        return self._sign(path, "read", sha256, life_s)

    def write(self, prefix: str, *, life_s: int = JOB_LIFE_S) -> Grant:
        """Write below a prefix, which ends with a slash."""
        if not prefix.endswith("/"):
            raise ValueError(f"a write is granted below a prefix, which ends with a slash; found {prefix!r}")
        return self._sign(prefix, "write", None, life_s)

    def _sign(self, path: str, method: Literal["read", "write"], sha256: str | None, life_s: int) -> Grant:
        bare = Grant(
            url=f"{self._root}/{path}", method=method, sha256=sha256, key=self._keys(path).hex(),
            expires_at=int(self._now()) + life_s,
        )  # fmt: skip
        return bare.model_copy(update={"signature": self._key.sign(bare.signed_bytes()).hex()})
