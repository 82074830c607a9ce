"""The worker's way to the data plane is cut, reset, half open, slow, or loses replies: every job runs once."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from tilth.dataplane.fake_http import served
from tilth.dataplane.fake_trainer import Script
from tilth.dataplane.http import HttpDataPlane
from tilth.dataplane.keys import signing_key
from tilth.dataplane.port import DataPlaneDown
from tilth.dataplane.tokens import Tokens
from tilth.training.states import State

from tests.controlplane.gateway_rig import eventually
from tests.network import BROKEN, SLOW, Fault, Network, network

PATIENCE_S = 1.0


@pytest.fixture
def far(rig: Any) -> Iterator[Network]:
    """The worker's rig with the data plane behind that network instead of in this process."""
    with (
        served(rig.plane, signing_key().public_key()) as url,
        network(url) as broken,
        closing(HttpDataPlane(broken.url, Tokens(signing_key()).bearer, timeout_s=PATIENCE_S)) as client,
    ):
        rig.reach(client)
        yield broken


@pytest.mark.slow
@pytest.mark.parametrize("fault", BROKEN)
def test_a_job_started_over_a_broken_network_runs_once(rig: Any, far: Network, tenant: Any, fault: Fault) -> None:
    job = rig.queued(tenant)
    far.fault = fault
    with pytest.raises(DataPlaneDown):
        rig.turn()
    far.fault = Fault.NONE
    _to_its_end(rig, tenant, job)
    assert rig.plane.starts == [(job.hex, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("fault", BROKEN)
def test_a_running_job_is_heard_again_after_the_network_is_back(
    rig: Any, far: Network, tenant: Any, sums_db: psycopg.Connection, fault: Fault
) -> None:
    rig.plane.script = lambda spec: Script(step_s=0.05, steps=6)
    job = rig.queued(tenant)
    rig.turn()
    far.fault = fault
    with pytest.raises(DataPlaneDown):
        rig.pull()
    far.fault = Fault.NONE
    _to_its_end(rig, tenant, job)
    numbers = sums_db.execute("SELECT number FROM training_event WHERE job_id = %s ORDER BY 1", [job]).fetchall()
    assert [number for (number,) in numbers] == list(range(1, len(numbers) + 1))
    assert rig.plane.starts == [(job.hex, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("fault", SLOW)
def test_a_job_over_a_slow_network_ends_as_ever(rig: Any, far: Network, tenant: Any, fault: Fault) -> None:
    far.fault, far.delay_s = fault, 0.05
    job = rig.queued(tenant)
    _to_its_end(rig, tenant, job)
    assert rig.plane.starts == [(job.hex, 1)]


def _to_its_end(rig: Any, tenant: Any, job: Any) -> None:
    assert eventually(lambda: (rig.turn(), rig.job(tenant, job).state == State.SUCCEEDED)[1])
