"""Batches over the fake data plane; the rig is imported late, since it needs Django set up."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import psycopg
import pytest

from tests.web import Web, start


@pytest.fixture
def plane() -> Any:
    """Honours the grants of this installation."""
    from tilth.dataplane.fake import FakeDataPlane
    from tilth.dataplane.keys import signing_key

    return FakeDataPlane(signing_key().public_key())


@pytest.fixture
def rig(clean_database: None, sums_db: psycopg.Connection, artifacts: Path, plane: Any) -> Any:
    """A worker stepped by hand, in a database without other batches."""
    from tilth.usage.prices import prices_sync

    from tests.controlplane.batches.rig import Rig

    prices_sync()
    return Rig(plane, sums_db)


@pytest.fixture
def read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read in this process: what the child does is tested where files are wrong."""
    from tilth.batches import child, reader

    monkeypatch.setattr(reader, "run_child", lambda order, at, module: child.work(order, at))


@pytest.fixture
def served(rig: Any, tenant: Any) -> Any:
    """An organisation with a deployed model of texts, ``ft:test``."""
    from tests.controlplane.gateway_rig import deploy

    deploy(rig.db, tenant)
    return tenant


@pytest.fixture
def lender(rig: Any, tenant: Any) -> Any:
    """An organisation with a deployed model of tables, ``ft:credit``: it learned from ``amount`` and ``branch``."""
    from tests.controlplane.batches.rig import deploy_table

    deploy_table(rig.db, tenant)
    return tenant


@pytest.fixture(scope="module")
def web(database: Any) -> Iterator[Web]:
    """A web process for the tests of a module."""
    running = start()
    yield running
    running.process.kill()
    running.process.wait(10)


@pytest.fixture
def sdk(web: Web) -> Iterator[Callable[[Any], openai.OpenAI]]:
    """The unmodified SDK with a tenant's key."""
    made: list[openai.OpenAI] = []

    def client(tenant: Any) -> openai.OpenAI:
        made.append(web.sdk(tenant))
        return made[-1]

    yield client
    for each in made:
        each.close()
