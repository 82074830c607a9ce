"""An organisation leaves amid a batch: its rows and lines are exported, then nothing of it stays or is billed."""

import json
import zipfile
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from tilth.core import storage
from tilth.dataplane.access import grants
from tilth.dataplane.fake import FakeDataPlane
from tilth.dataplane.keys import signing_key
from tilth.leaving.erasure import tenant_erase
from tilth.leaving.export import tenant_export
from tilth.leaving.rows import KEPT

from tests.controlplane.batches.rig import Rig, jsonl, request_line
from tests.controlplane.gateway_rig import deploy
from tests.local.test_leaving import counts

pytestmark = pytest.mark.slow

CANARY = f"canary{uuid4().hex}"


@pytest.fixture
def halfway(copies: Any, tenant: Any, sums_db: psycopg.Connection) -> Any:
    """(rig, batch): one chunk is answered, another is held for by a worker that has died."""
    from tilth.batches.turns import chunk_begin
    from tilth.usage.prices import prices_sync

    prices_sync()
    deploy(sums_db, tenant)
    rig = Rig(FakeDataPlane(signing_key().public_key()), sums_db)
    body = {"model": "ft:test", "inputs": [{"text": CANARY}]}
    batch = rig.begun(tenant, jsonl(*(request_line(number, body=body) for number in range(600))))
    rig.chunk(tenant, batch)
    chunk_begin(tenant=tenant.id, batch=batch, number=1, units=1000)
    grants.cache_clear()
    return rig, batch


def test_a_batch_goes_along_in_the_export(halfway: Any, tenant: Any, tmp_path: Path) -> None:
    _, batch = halfway
    to = tmp_path / "export.zip"
    tenant_export(tenant=tenant.id, to=to)
    with zipfile.ZipFile(to) as archive:
        (row,) = [json.loads(line) for line in archive.read("rows/batches_batch.jsonl").splitlines()]
        names = [name for name in archive.namelist() if f"batches/{batch.hex}/chunks/" in name]
        assert (row["state"], row["completed"], len(names)) == ("in_progress", 256, 3)
        assert CANARY.encode() in archive.read(names[0])


def test_nothing_of_a_batch_outlives_its_organisation_and_a_late_worker_writes_nothing(
    halfway: Any, tenant: Any, sums_db: psycopg.Connection, copies: Any
) -> None:
    from tilth.core.errors import NotFound
    from tilth.usage.fold import fold_once

    rig, batch = halfway
    assert CANARY.encode() not in b"".join(p.read_bytes() for p in copies.root.rglob("*") if p.is_file()), "sealed"
    certificate = tenant_erase(tenant=tenant.id, name=tenant.name, plane=None)
    fold_once()
    assert (certificate.rows["batches_batch"], certificate.rows["batches_chunk"]) == (1, 1)
    assert set(counts(sums_db, tenant.id)) <= set(KEPT)
    assert list(storage.walk(f"tenants/{tenant.id.hex}")) == []
    held = "SELECT coalesce(sum(held_micro_usd), 0) FROM usage_budget WHERE tenant_id = %s"
    assert sums_db.execute(held, [tenant.id]).fetchone() == (0,)
    with pytest.raises(NotFound):
        rig.runner.work(tenant.id, batch)
    assert [quantity for _, _, quantity in rig.events(tenant)] == [1792]
