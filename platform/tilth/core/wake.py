"""Wakes the worker's loops when the present transaction commits."""

from django.db import connection

CHANNEL = "tilth_work"
"""PostgreSQL's channel to which the worker listens."""


def wake_worker() -> None:
    """There is something to do; the loops look for themselves what it is."""
    with connection.cursor() as cursor:
        cursor.execute(f"NOTIFY {CHANNEL}")
