"""The text of an API key: prefix, random base62, CRC-32. A mistyped key is refused before any query."""

import hashlib
import re
import secrets
import zlib
from dataclasses import dataclass

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
RANDOM_CHARS = 23  # 62^23 > 2^136
CRC_CHARS = 6  # 62^6 > 2^32
SHAPE = re.compile(rf"tilth_(live|test)_[0-9A-Za-z]{{{RANDOM_CHARS + CRC_CHARS}}}", re.ASCII)


@dataclass(frozen=True)
class KeyText:
    """A key as shown once, and what is stored of it."""

    secret: str

    @property
    def sha256(self) -> str:
        """Hex; the only form the database knows."""
        return hashlib.sha256(self.secret.encode()).hexdigest()

    @property
    def prefix(self) -> str:
        """``tilth_live_`` and the first four characters, to recognise it by."""
        return self.secret[:15]

    @property
    def last4(self) -> str:
        """The end of the secret's random part and CRC."""
        return self.secret[-4:]


def new_key(mode: str = "live") -> KeyText:
    """A fresh random key; mode is live or test."""
    body = f"tilth_{mode}_" + "".join(secrets.choice(ALPHABET) for _ in range(RANDOM_CHARS))
    return KeyText(body + _crc(body))


def well_formed(secret: str) -> bool:
    """True if the shape and the CRC hold; costs no query."""
    if not SHAPE.fullmatch(secret):
        return False
    return secrets.compare_digest(_crc(secret[:-CRC_CHARS]), secret[-CRC_CHARS:])


def _crc(body: str) -> str:
    value, digits = zlib.crc32(body.encode()), ""
    for _ in range(CRC_CHARS):
        value, digit = divmod(value, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits
