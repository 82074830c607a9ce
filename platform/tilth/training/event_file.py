"""TensorBoard's event file, written plainly: TFRecords of the protobuf ``Event``, its four fields that scalars need.

tensorboard's own writer would bring numpy into the control plane; here its reader is what tests read the bytes with.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

VERSION = b"brain.Event:2"
"""What the first record of a file must say."""
POLYNOMIAL = 0x82F63B78
"""Castagnoli's, reversed: CRC-32C (RFC 3720, appendix B.4)."""
MASK = 0xA282EAD8
VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5
"""Wire types of protobuf."""


@dataclass(frozen=True)
class Step:
    """Scalars by tag, at one step of a run."""

    at: datetime
    step: int
    scalars: Mapping[str, float]


def event_file(steps: Iterable[Step]) -> bytes:
    """One run; the steps in their order, at least one."""
    told = list(steps)
    first = _double(1, told[0].at.timestamp()) + _bytes(3, VERSION)
    return _record(first) + b"".join(_record(_event(step)) for step in told)


def _event(step: Step) -> bytes:
    """``wall_time``, ``step`` and ``summary``: values of ``tag`` and ``simple_value``."""
    values = (_bytes(1, tag.encode()) + _float(2, value) for tag, value in step.scalars.items())
    summary = b"".join(_bytes(1, value) for value in values)
    return _double(1, step.at.timestamp()) + _key(2, VARINT) + _varint(step.step) + _bytes(5, summary)


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _checked(length) + data + _checked(data)


def _checked(data: bytes) -> bytes:
    """The masked checksum, as records carry it."""
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + MASK) & 0xFFFFFFFF)


def crc32c(data: bytes) -> int:
    """CRC-32C, a byte at a time."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _remainder(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (POLYNOMIAL if byte & 1 else 0)
    return byte


TABLE = [_remainder(byte) for byte in range(256)]


def _key(field: int, wire: int) -> bytes:
    return _varint(field << 3 | wire)


def _double(field: int, value: float) -> bytes:
    return _key(field, FIXED_64) + struct.pack("<d", value)


def _float(field: int, value: float) -> bytes:
    return _key(field, FIXED_32) + struct.pack("<f", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _key(field, BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])
