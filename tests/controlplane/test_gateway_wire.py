"""The gateway's own connection to PostgreSQL: its end is noticed at once, though no reader is told of it."""

import asyncio

import psycopg
import pytest
import uvloop
from django.conf import settings
from tilth.gateway.wire import LOOK_S, Prepared, Wire

SLEEP = Prepared.of("SELECT pg_sleep(%(seconds)s::float)")


async def deaf() -> Wire:
    """As libuv leaves a socket that was in error: nobody is told when it can be read."""
    wire = await Wire.open(settings.ENV.database_url, [SLEEP], synchronous_commit=False)
    asyncio.get_running_loop().remove_reader(wire._socket)
    wire._readable.clear()
    return wire


def terminate(db: psycopg.Connection, wire: Wire) -> None:
    assert db.execute("SELECT pg_terminate_backend(%s, 5000)", [wire._pg.backend_pid]).fetchone() == (True,)


def test_a_connection_that_ends_while_it_is_waited_for_is_lost_at_once(sums_db: psycopg.Connection) -> None:
    async def ended() -> None:
        wire = await deaf()
        asked = asyncio.create_task(wire.together([(SLEEP, {"seconds": b"60"})]))
        await asyncio.sleep(LOOK_S)
        terminate(sums_db, wire)
        try:
            await asked
        finally:
            await wire.close()

    with pytest.raises(psycopg.OperationalError):  # a TimeoutError if its end was waited for
        uvloop.run(ended())


def test_a_connection_that_ended_while_it_was_idle_is_found_broken(sums_db: psycopg.Connection) -> None:
    async def broken() -> bool:
        wire = await deaf()
        try:
            terminate(sums_db, wire)
            await asyncio.sleep(2 * LOOK_S)
            return wire.broken()
        finally:
            await wire.close()

    assert uvloop.run(broken())
