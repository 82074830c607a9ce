"""Removing what rows have named waits while a backup runs, which copies objects after their rows."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection, transaction

from tilth.core.errors import Unavailable

BACKUP = 7_115_100_105
"""Key of the advisory lock: shared by deletions, exclusive to the backup."""


@contextmanager
def deletion() -> Iterator[None]:
    """Objects may be removed for the time of the block; raises Unavailable while a backup runs."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock_shared(%s)", [BACKUP])
        if not cursor.fetchone()[0]:
            raise Unavailable("A backup runs; what was deleted is removed from storage after it.")
        yield
