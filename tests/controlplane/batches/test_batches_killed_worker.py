"""The worker is killed between any two steps of a batch; another one takes over and every row is billed once."""

import re
import signal
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import tilth
from tilth.batches.crash_points import CRASH_POINTS

from tests.controlplane.batches.rig import Rig, lines_of
from tests.controlplane.training.test_training_killed_worker import eventually, settled
from tests.controlplane.training.worker_process import workers

WITHIN_S = 120.0
ROWS = 300


@pytest.fixture
def start_worker(rig: Rig) -> Iterator[Callable[[str], BaseProcess]]:
    with workers(rig.plane) as start:
        yield start


@pytest.mark.slow
@pytest.mark.parametrize("point", CRASH_POINTS)
def test_a_worker_killed_at_a_crash_point_loses_and_doubles_no_row(
    rig: Rig, served: Any, start_worker: Callable[[str], BaseProcess], point: str
) -> None:
    batch = rig.create(served, lines_of(ROWS))
    first = start_worker(point)
    first.join(WITHIN_S)
    assert first.exitcode == -signal.SIGKILL, f"{point} was never reached"

    start_worker("")
    eventually(lambda: rig.batch(served, batch).state == "completed", lambda: rig.batch(served, batch).__dict__)
    eventually(lambda: settled(rig.db, served.id), lambda: "holds stay or usage is never folded")
    row = rig.batch(served, batch)
    assert [line["custom_id"] for line in rig.output(served, row)] == [f"request-{n}" for n in range(ROWS)]
    assert rig.events(served) == [("batch", f"{batch.hex}:{n}", tokens) for n, tokens in enumerate([1792, 308])]
    ledger = "SELECT account, sum(amount_micro_usd)::bigint FROM usage_ledgerentry WHERE tenant_id = %s GROUP BY 1"
    assert dict(rig.db.execute(ledger, [served.id]).fetchall()) == {"customer": 210, "revenue:prediction.tokens": -210}
    files = "SELECT count(*) FROM datasets_file WHERE tenant_id = %s AND purpose = 'batch_output'"
    assert rig.db.execute(files, [served.id]).fetchone() == (1,)


def test_every_crash_point_in_the_source_is_one_of_those_tested() -> None:
    sources = (Path(tilth.__file__).parent / "batches").glob("*.py")
    named = {name for source in sources for name in re.findall(r'crash_point\("([^"]+)"', source.read_text())}
    assert named == set(CRASH_POINTS)
