"""The worker is killed between two steps of every state change; another one takes over and the sums are right."""

import re
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
import tilth
from tilth.contract.messages import EventKind
from tilth.core.clock import now
from tilth.dataplane.fake_trainer import Script
from tilth.training import services
from tilth.training.crash_points import CRASH_POINTS
from tilth.training.states import State
from tilth.usage import fold
from tilth.usage.services import hold_place

from tests.controlplane.training.worker_process import workers

POINTS = (*CRASH_POINTS, *fold.CRASH_POINTS)
WITHIN_S = 30.0

QUICK, LONG = Script(), Script(steps=5000, step_s=0.01)
FIRST_ATTEMPT = {
    "lost": Script(dies_after=7),
    "lost.hold_released": Script(dies_after=2),
    "fail": Script(outcome=EventKind.FAILED),
    "pause": LONG,
    "cancel": LONG,
    "pull.stop_sent": LONG,
}
"""How the trainer's first attempt goes, by crash point or its beginning; QUICK where nothing is said."""
ALWAYS = {"lost.hold_released": True, "fail": True}
"""Later attempts go the same way."""
ENDS = {"lost.hold_released": State.FAILED, "fail": State.FAILED, "cancel": State.CANCELLED}


def of(point: str, table: dict[str, Any], otherwise: Any) -> Any:
    """What a table says of a crash point, or of its beginning."""
    return table.get(point, table.get(point.partition(".")[0], otherwise))


@pytest.fixture
def start_worker(rig: Any) -> Iterator[Callable[[str], BaseProcess]]:
    with workers(rig.plane) as start:
        yield start


def eventually(holds: Callable[[], object], what: Callable[[], object]) -> None:
    end = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < end, what()
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_a_worker_killed_at_a_crash_point_loses_and_doubles_nothing(
    rig: Any, tenant: Any, sums_db: psycopg.Connection, start_worker: Callable[[str], BaseProcess], point: str
) -> None:
    first = of(point, FIRST_ATTEMPT, QUICK)
    rig.plane.script = lambda spec: first if spec.attempt == 1 or of(point, ALWAYS, False) else QUICK
    began, job = time.monotonic(), rig.create(tenant)
    if point.startswith("sweep"):
        yesterday = now() - timedelta(days=1)
        hold_place(tenant=tenant.id, purpose="nobody comes back", amount_micro_usd=7, expires_at=yesterday)

    def reached(state: State) -> None:
        eventually(lambda: rig.job(tenant, job).state == state, lambda: (state, rig.story(tenant, job)))

    worker = start_worker(point)
    if first is LONG:
        reached(State.RUNNING)
        stop = services.job_cancel if point.startswith("cancel") else services.job_pause
        stop(tenant=tenant.id, by=tenant.principal, job=job)
    worker.join(WITHIN_S)
    assert worker.exitcode == -signal.SIGKILL, f"{point} was never reached"

    start_worker("")
    if point.startswith(("pause", "pull.stop_sent")):
        reached(State.PAUSED)
        assert rig.job(tenant, job).hold is None
        services.job_resume(tenant=tenant.id, by=tenant.principal, job=job)
    reached(of(point, ENDS, State.SUCCEEDED))
    eventually(lambda: settled(sums_db, tenant.id), lambda: "holds stay or usage is never folded")
    assert_sums(sums_db, rig, tenant.id, job, (time.monotonic() - began) * 1000)


def settled(db: psycopg.Connection, tenant: UUID) -> bool:
    """Nothing is held and everything used is in the ledger."""
    waiting = "SELECT (SELECT count(*) FROM usage_pendingfold WHERE tenant_id = %(t)s)"
    held = "(SELECT count(*) FROM usage_hold WHERE tenant_id = %(t)s)"
    return db.execute(f"{waiting} + {held}", {"t": tenant}).fetchone() == (0,)


def assert_sums(db: psycopg.Connection, rig: Any, tenant: UUID, job: UUID, real_ms: float) -> None:
    def one(sql: str) -> tuple[Any, ...]:
        row = db.execute(sql, {"t": tenant, "j": job}).fetchone()
        assert row is not None
        return row

    state, hold, attempt = one("SELECT state, hold, attempt FROM training_job WHERE id = %(j)s")
    assert hold is None
    assert sorted(rig.plane.starts) == [(job.hex, number) for number in range(1, attempt + 1)], "an attempt ran twice"

    spans = db.execute("SELECT attempt, device_ms, closed_at FROM usage_devicespan WHERE job = %s ORDER BY 1", [job])
    billed = {number: device_ms for number, device_ms, closed in spans if closed is not None}
    told = db.execute(
        "SELECT event_id, quantity FROM usage_usageevent WHERE tenant_id = %s AND source = 'training'", [tenant]
    )
    assert sorted(told) == sorted((f"{job}:{number}", device_ms) for number, device_ms in billed.items())
    assert list(billed) == list(range(1, attempt + 1))
    assert sum(billed.values()) <= real_ms

    ledger, used = one(
        """SELECT (SELECT coalesce(sum(amount_micro_usd), 0) FROM usage_ledgerentry WHERE tenant_id = %(t)s),
                  (SELECT coalesce(sum(quantity), 0) FROM usage_tally WHERE tenant_id = %(t)s)"""
    )
    assert (ledger, used) == (0, sum(billed.values()))
    assert one("SELECT coalesce(sum(held_micro_usd), 0) FROM usage_budget WHERE tenant_id = %(t)s") == (0,)

    numbers = db.execute("SELECT number FROM training_event WHERE job_id = %s ORDER BY 1", [job]).fetchall()
    assert [number for (number,) in numbers] == list(range(1, len(numbers) + 1))
    doubled = "SELECT attempt, seq FROM training_event WHERE job_id = %s AND seq > 0 GROUP BY 1, 2 HAVING count(*) > 1"
    assert db.execute(doubled, [job]).fetchall() == []

    models = int(state == State.SUCCEEDED)
    assert one("SELECT count(*) FROM registry_model WHERE tenant_id = %(t)s") == (models,)
    assert one("SELECT count(*) FROM serving_deployment WHERE tenant_id = %(t)s") == (models,)
    assert one("SELECT count(*) FROM datasets_datasetversion WHERE tenant_id = %(t)s") == (1,)


def test_every_crash_point_in_the_source_is_one_of_those_tested() -> None:
    folder = Path(tilth.__file__).parent
    sources = [*(folder / "training").glob("*.py"), *(folder / "usage").glob("*.py")]
    named = {name for source in sources for name in re.findall(r'crash_point\(f?"([^"]+)"', source.read_text())}
    kinds = re.findall(r'_close_span\(found, "(\w+)"', (folder / "training" / "endings.py").read_text())
    assert {name.format(point=kind) for name in named for kind in kinds} == set(POINTS)
