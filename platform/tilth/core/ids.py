"""Time-ordered ids made in Python (RFC 9562, version 7), and their public form ``prefix-hex``."""

import os
import time
from uuid import UUID

from tilth.core.errors import NotFound


def uuid7() -> UUID:
    """48 bits of Unix milliseconds, then 74 random bits."""
    value = int.from_bytes(int(time.time() * 1000).to_bytes(6, "big") + os.urandom(10), "big")
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    return UUID(int=(value & ~(0x3 << 62)) | (0x2 << 62))


def public(prefix: str, value: UUID) -> str:
    """``file-0190…``: what customers see."""
    return f"{prefix}-{value.hex}"


def parse(prefix: str, text: str) -> UUID:
    """The id behind a public form; anything else is an object that does not exist."""
    head, _, tail = text.partition("-")
    if head != prefix or len(tail) != 32:
        raise NotFound.of(prefix, text)
    try:
        return UUID(hex=tail)
    except ValueError:
        raise NotFound.of(prefix, text) from None
