"""Seals what is kept for a few minutes only: whoever reads the database reads no secret that a reply showed once."""

from base64 import urlsafe_b64encode
from functools import cache

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

from tilth.core.errors import Unprocessable


def sealed(content: bytes) -> str:
    """Readable by processes with the same SECRET_KEY only."""
    return _box(settings.SECRET_KEY).encrypt(content).decode()


def opened(seal: str) -> bytes:
    """What was sealed; raises Unprocessable if the installation's secret was changed in between."""
    try:
        return _box(settings.SECRET_KEY).decrypt(seal.encode())
    except InvalidToken:
        raise Unprocessable("The first reply can be read no more; use a fresh Idempotency-Key.") from None


@cache
def _box(secret: str) -> Fernet:
    derived = HKDF(SHA256(), 32, salt=None, info=b"tilth first replies").derive(secret.encode())
    return Fernet(urlsafe_b64encode(derived))
