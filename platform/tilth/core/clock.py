"""The one clock: UTC, replaceable in tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

_frozen: list[datetime] = []


def now() -> datetime:
    """The present time, UTC."""
    return _frozen[-1] if _frozen else datetime.now(UTC)


def now_ms() -> int:
    """Unix time in milliseconds."""
    return int(now().timestamp() * 1000)


@contextmanager
def frozen(at: datetime) -> Iterator[None]:
    """Stops the clock at a moment, for tests."""
    _frozen.append(at)
    try:
        yield
    finally:
        _frozen.pop()
