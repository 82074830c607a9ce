"""How an object lies in storage: encrypted in chunks, so that a change, a cut, a swap or another key is noticed."""

import os
from collections.abc import Iterator
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tilth.contract.errors import SealBroken

MAGIC = b"tilth-sealed-1\n"
"""Begins every sealed object; the number is that of the format."""
SALT = 16
"""Random bytes after it: each object has a key of its own, so a counter is nonce enough."""
CHUNK = 1 << 20
"""Bytes of plain text encrypted at once."""
TAG = 16
KEY = 32


class Readable(Protocol):
    """A binary file as far as unsealing needs it."""

    def read(self, size: int, /) -> bytes:
        """Up to that many bytes; none at the end."""


def derived(key: bytes, name: str) -> bytes:
    """The 256-bit key of what has that name, by HKDF-SHA256 (RFC 5869); nothing leads back to ``key``."""
    return HKDF(SHA256(), KEY, None, name.encode()).derive(key)


class Sealer:
    """Encrypts one object piece by piece: AES-256-GCM under the STREAM construction.

    A nonce is the chunk's number (11 bytes) and whether it is the last (1 byte): Hoang, Reyhanitabar, Rogaway, Vizár
    2015, "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", section 7.
    """

    def __init__(self, key: bytes) -> None:
        salt = os.urandom(SALT)
        self._cipher = _cipher(key, salt)
        self._kept = bytearray()
        self._number = 0
        self.header = MAGIC + salt
        """Comes before everything else."""

    def update(self, data: bytes) -> bytes:
        """What can be written by now; the last chunk waits for the end."""
        self._kept += data
        out = bytearray()
        while len(self._kept) > CHUNK:
            out += self._sealed(bytes(self._kept[:CHUNK]), last=False)
            del self._kept[:CHUNK]
        return bytes(out)

    def finish(self) -> bytes:
        """The last chunk; an empty object has an empty one."""
        return self._sealed(bytes(self._kept), last=True)

    def _sealed(self, chunk: bytes, *, last: bool) -> bytes:
        self._number += 1
        return self._cipher.encrypt(_nonce(self._number, last), chunk, None)


def seal(data: bytes, key: bytes) -> bytes:
    """A whole object."""
    sealer = Sealer(key)
    return sealer.header + sealer.update(data) + sealer.finish()


def unsealed(file: Readable, key: bytes) -> Iterator[bytes]:
    """The plain chunks of a sealed file; raises SealBroken, before any byte of a chunk that is not as it was sealed.

    Only an iteration that ends tells that nothing was cut off.
    """
    header = file.read(len(MAGIC) + SALT)
    if not header.startswith(MAGIC) or len(header) < len(MAGIC) + SALT:
        raise SealBroken("the object is not encrypted, or in another format; only what this product wrote can be read")
    cipher, number = _cipher(key, header[len(MAGIC) :]), 1
    chunk = file.read(CHUNK + TAG)
    while ahead := file.read(CHUNK + TAG):
        yield _opened(cipher, _nonce(number, last=False), chunk)
        chunk, number = ahead, number + 1
    yield _opened(cipher, _nonce(number, last=True), chunk)


def _opened(cipher: AESGCM, nonce: bytes, chunk: bytes) -> bytes:
    try:
        return cipher.decrypt(nonce, chunk, None)
    except (InvalidTag, ValueError):
        raise SealBroken("the object was changed or cut short, or was sealed with another key") from None


def _cipher(key: bytes, salt: bytes) -> AESGCM:
    if len(key) != KEY:
        raise ValueError(f"a key has {KEY} bytes, found {len(key)}")
    return AESGCM(HKDF(SHA256(), KEY, salt, MAGIC).derive(key))


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])
