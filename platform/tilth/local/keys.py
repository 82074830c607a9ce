"""Secrets of an embedded stack, made once below ``var/keys``, readable by us alone."""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat


@dataclass(frozen=True)
class Keys:
    """Where each secret lies."""

    signing: Path
    verify: Path
    secret: Path
    ray_token: Path


def make_keys(folder: Path) -> Keys:
    """The keys of a folder; those that are missing are made."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    keys = Keys(folder / "signing.pem", folder / "verify.pem", folder / "secret", folder / "ray-token")
    if not keys.signing.exists():
        pair = Ed25519PrivateKey.generate()
        public = pair.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        write_secret(keys.verify, public)
        write_secret(keys.signing, pair.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    for path in (keys.secret, keys.ray_token):
        if not path.exists():
            write_secret(path, secrets.token_urlsafe(48).encode())
    return keys


def write_secret(path: Path, data: bytes) -> None:
    """Whole or not at all, mode 0600 from the start."""
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    part.replace(path)
