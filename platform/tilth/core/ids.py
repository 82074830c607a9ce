"""Time-ordered ids made in Python (RFC 9562, version 7), and their public form ``prefix-hex``."""

import os
import re
import time
from uuid import UUID

from tilth.core.errors import NotFound

HEX = re.compile("[0-9a-f]{32}")


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
    if head != prefix or not HEX.fullmatch(tail):
        raise NotFound.of(prefix, text)
    return UUID(hex=tail)
