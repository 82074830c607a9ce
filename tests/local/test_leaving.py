"""An organisation leaves: it takes all of its own along; then nothing of it can be read, not in older backups."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from tilth.core import storage
from tilth.core.errors import Invalid, NotFound, Unavailable
from tilth.core.ids import public
from tilth.core.keystore import KeyDestroyed
from tilth.core.scope import tenant_scope
from tilth.dataplane.access import grants
from tilth.dataplane.fake import FakeDataPlane
from tilth.dataplane.fake_trainer import Script
from tilth.dataplane.keys import signing_key
from tilth.leaving.erasure import CRASH_POINTS, tenant_erase
from tilth.leaving.export import MANIFEST, tenant_export
from tilth.leaving.rows import KEPT, SECRETS, tables
from tilth.local.backup import mirror_keys
from tilth.local.dump import snapshot
from tilth.local.postgres import Postgres, binaries

pytestmark = pytest.mark.slow

SEALED = ("cell", "label", "message", "card")
"""Canaries that lie sealed: the key's end is theirs, in old backups too."""
PLAIN = ("filename", "column", "suffix", "metadata", "organisation", "email")
"""Canaries that a dump made before the erasure still shows; SECURITY.md says so."""


class Canaries:
    """Words that stand nowhere else, planted wherever an organisation's words go."""

    def __init__(self, tenant: Any) -> None:
        self.tenant = tenant
        self.words = {name: f"canary{name}{uuid4().hex[:12]}" for name in (*SEALED, *PLAIN)}

    def __getitem__(self, name: str) -> str:
        return self.words[name]

    def found_in(self, content: bytes) -> set[str]:
        return {name for name, word in self.words.items() if word.encode() in content}


@pytest.fixture
def plane() -> FakeDataPlane:
    """Its trainers never come to an end."""
    return FakeDataPlane(signing_key().public_key(), script=lambda spec: Script(hangs_after=2))


@pytest.fixture
def lively(upload: Callable[..., Any], plane: FakeDataPlane) -> Callable[[Any], Canaries]:
    """Makes a tenant with a checked file, a version, a running job, an ended one with a model, and usage."""

    def make(tenant: Any) -> Canaries:
        canaries = Canaries(tenant)
        file = _file(upload, canaries)
        _run_a_job(canaries, file, plane)
        _name(canaries)
        return canaries

    return make


def _file(upload: Callable[..., Any], canaries: Canaries) -> Any:
    from tilth.datasets.services import file_check

    rows = [f"{canaries['cell']} number {n},{(canaries['label'], 'other')[n % 2]}" for n in range(60)]
    content = "\n".join([f"{canaries['column']},label", *rows, "short", ""])
    file = upload(canaries.tenant, content.encode(), f"{canaries['filename']}.csv")
    file_check(tenant=canaries.tenant.id, file=file.id)
    return file


def _run_a_job(canaries: Canaries, file: Any, plane: FakeDataPlane) -> None:
    """Leased and at work when this returns: its files are frozen, its trainer has told something."""
    from tilth.core.loops import Crew
    from tilth.training.dispatcher import Dispatcher
    from tilth.training.models import Job
    from tilth.training.services import Order, job_create
    from tilth.training.story import tell
    from tilth.training.validator import Validator

    tenant = canaries.tenant
    order = Order(
        vertical="support_chat", base_model="minilm-l6", training_file=file.id, suffix=canaries["suffix"][:40],
        columns={"text": canaries["column"]}, accept_bad_rows=True, metadata={"note": canaries["metadata"]},
    )  # fmt: skip
    canaries.words["suffix"] = canaries["suffix"][:40]
    job = job_create(tenant=tenant.id, by=tenant.principal, order=order)
    Validator(Crew(1, "test")).validate(tenant.id, job)
    plane.trainers += 1
    Dispatcher(plane, grants()).step()
    with tenant_scope(tenant.id):
        found = Job.objects.get(id=job)
        assert found.state == "leased", found.error
        tell(found, f"Learned about {canaries['message']}", labels=[canaries["label"]])
        found.save()


def _name(canaries: Canaries) -> None:
    from tilth.accounts.models import User
    from tilth.registry.models import Model
    from tilth.tenants.models import Organisation
    from tilth.training.models import Job

    with tenant_scope(canaries.tenant.id):
        Organisation.objects.update(name=canaries["organisation"])
        job = Job.objects.get()
        assert job.version_id is not None
        facts = {"rung": "probe", "version_sha256": "0" * 64, "base_revision": "", "digest": "sha256:0"}
        Model.objects.create(
            name=f"ft:{uuid4().hex}", job=job, version_id=job.version_id, vertical="support_chat", base_model="x",
            path="", report={"labels": [canaries["label"]]}, card=f"# {canaries['card']}", **facts,
        )  # fmt: skip
    User.objects.filter(id=canaries.tenant.owner.id).update(email=f"{canaries['email']}@example.org")


def everything(server: Postgres) -> bytes:
    """The live database in plain SQL."""
    command = [str(binaries() / "pg_dump"), "--dbname", server.url("postgres")]
    return subprocess.run(command, capture_output=True, check=True).stdout


def files_below(*folders: Path) -> bytes:
    return b"".join(path.read_bytes() for each in folders for path in each.rglob("*") if path.is_file())


def erase(canaries: Canaries, plane: FakeDataPlane | None) -> Any:
    return tenant_erase(tenant=canaries.tenant.id, name=canaries["organisation"], plane=plane)


def counts(db: psycopg.Connection, tenant: UUID) -> dict[str, int]:
    query = sql.SQL("SELECT count(*) FROM {} WHERE tenant_id = %s")
    found = {table: db.execute(query.format(sql.Identifier(table)), [tenant]).fetchone() for table in tables(db)}
    return {table: row[0] for table, row in found.items() if row and row[0]}


def test_an_erased_organisation_can_be_read_nowhere_and_a_restored_older_backup_has_it_no_more(
    copies: Any, tenant: Any, other_tenant: Any, lively: Callable[..., Any], plane: FakeDataPlane,
    database: Postgres, fresh: Postgres, sums_db: psycopg.Connection,
) -> None:  # fmt: skip
    gone, stays = lively(tenant), lively(other_tenant)
    before = counts(sums_db, other_tenant.id)
    copies.backup()
    certificate = erase(gone, plane)
    assert certificate.organisation == tenant.id.hex
    assert (certificate.objects > 1, certificate.people) == (True, 1)
    assert gone.found_in(everything(database)) == set(), "the live database"
    places = [copies.root / "artifacts", storage.scratch(), copies.root / "keys"]
    assert gone.found_in(files_below(*places)) == set(), "objects, scratch and keys"
    dumped = subprocess.run(
        [binaries() / "pg_restore", "--file=-", copies.folder / "database.dump"], capture_output=True, check=True
    ).stdout
    older = dumped + files_below(copies.folder)
    assert gone.found_in(older) == set(PLAIN), "an older backup shows what SECURITY.md lists, and no more"
    assert counts(sums_db, other_tenant.id) == before
    assert stays.found_in(everything(database)) == set(PLAIN), "the other's words lie sealed where they must"

    mirror_keys(copies.product, copies.keys)
    copies.restore(copies.target(fresh))
    fresh.start()
    assert gone.found_in(everything(fresh)) == set(), "restored, and erased again"
    assert not (copies.root / "new" / "artifacts" / "tenants" / tenant.id.hex).exists()
    with psycopg.connect(fresh.url("postgres")) as restored:
        assert counts(restored, other_tenant.id) == before
        left = counts(restored, tenant.id)
    assert set(left) <= set(KEPT)
    assert left["tenants_auditentry"] == 1


def test_what_an_erasure_keeps_is_named_with_a_reason_and_its_sums_hold(
    copies: Any, tenant: Any, lively: Callable[..., Any], plane: FakeDataPlane, sums_db: psycopg.Connection
) -> None:
    from tilth.usage.fold import fold_once

    canaries = lively(tenant)
    certificate = erase(canaries, plane)
    fold_once()
    left = counts(sums_db, tenant.id)
    assert set(left) <= set(KEPT)
    assert set(KEPT) <= set(tables(sums_db))
    assert certificate.rows["training_job"] == 1
    assert certificate.rows["datasets_file"] == 1
    spans = "SELECT count(*) FROM usage_devicespan WHERE tenant_id = %s AND closed_at IS NULL"
    assert sums_db.execute(spans, [tenant.id]).fetchone() == (0,)
    held = "SELECT coalesce(sum(held_micro_usd), 0) FROM usage_budget WHERE tenant_id = %s"
    assert sums_db.execute(held, [tenant.id]).fetchone() == (0,)
    names = "SELECT name, slug FROM tenants_organisation WHERE tenant_id = %s"
    assert sums_db.execute(names, [tenant.id]).fetchone() == ("erased", "erased")
    assert list(storage.walk(f"tenants/{tenant.id.hex}")) == []
    with pytest.raises(KeyDestroyed):
        storage.key_store().key(tenant.id)
    assert plane.status(*plane.starts[-1]).state == "lost", "its trainer was killed"


def test_a_key_of_an_erased_organisation_opens_nothing(
    copies: Any, tenant: Any, lively: Callable[..., Any], plane: FakeDataPlane
) -> None:
    canaries = lively(tenant)
    assert tenant.client.get("/v1/files").status_code == 200
    erase(canaries, plane)
    assert tenant.client.get("/v1/files").status_code == 401


def test_erasing_twice_changes_nothing_and_another_name_erases_nothing(
    copies: Any, tenant: Any, lively: Callable[..., Any], plane: FakeDataPlane, sums_db: psycopg.Connection
) -> None:
    canaries = lively(tenant)
    before = counts(sums_db, tenant.id)
    with pytest.raises(Invalid, match="another name"):
        tenant_erase(tenant=tenant.id, name="something else", plane=plane)
    with pytest.raises(NotFound):
        tenant_erase(tenant=uuid4(), name="nobody", plane=plane)
    assert counts(sums_db, tenant.id) == before
    first = erase(canaries, plane)
    left = counts(sums_db, tenant.id)
    again = erase(canaries, plane)
    assert (again.key_sha256, again.erased_at, again.rows) == (first.key_sha256, first.erased_at, {})
    assert counts(sums_db, tenant.id) == left


def test_nothing_is_erased_while_a_backup_runs(
    copies: Any, tenant: Any, lively: Callable[..., Any], plane: FakeDataPlane
) -> None:
    canaries = lively(tenant)
    with snapshot(copies.product.database()), pytest.raises(Unavailable, match="A backup runs"):
        erase(canaries, plane)
    assert storage.key_store().tombstone(tenant.id) is None


@pytest.mark.parametrize("point", CRASH_POINTS)
def test_an_erasure_killed_at_any_step_is_finished_by_the_same_command(
    copies: Any, tenant: Any, lively: Callable[..., Any], sums_db: psycopg.Connection, database: Postgres, point: str
) -> None:
    canaries = lively(tenant)
    env = os.environ | {
        "TILTH_ARTIFACTS": copies.product.artifacts,
        "TILTH_KEYSTORE": str(copies.product.keystore),
    }
    asked = ["--organisation", public("org", tenant.id), "--confirm", canaries["organisation"], "--restored"]
    command = [sys.executable, "-W", "ignore", "-m", "django", "tenant_erase", *asked]
    killed = subprocess.run(command, env=env | {"TILTH_CRASH_AT": point}, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    done = subprocess.run(command, env=env, check=True, capture_output=True)
    assert json.loads(done.stdout)["organisation"] == tenant.id.hex
    assert canaries.found_in(everything(database)) == set()
    assert set(counts(sums_db, tenant.id)) <= set(KEPT)
    assert storage.key_store().tombstone(tenant.id) is not None


@pytest.fixture
def exported(copies: Any, lively: Callable[..., Any], tenant: Any, other_tenant: Any) -> Iterator[Any]:
    """(canaries of the one that leaves, of the other, the zip)."""
    ours, others = lively(tenant), lively(other_tenant)
    to = copies.root / "export.zip"
    tenant_export(tenant=tenant.id, to=to)
    with zipfile.ZipFile(to) as archive:
        yield ours, others, archive


def test_an_export_has_all_that_is_the_tenants_in_the_clear_and_nothing_of_another(
    exported: Any, sums_db: psycopg.Connection, copies: Any
) -> None:
    ours, others, archive = exported
    whole = b"\n".join(archive.read(name) for name in archive.namelist())
    assert ours.found_in(whole) >= set(ours.words) - {"email"}, "a person's address is theirs, not the organisation's"
    assert others.found_in(whole) == set()
    assert others.tenant.id.hex.encode() not in whole
    rows = {table: len(archive.read(f"rows/{table}.jsonl").splitlines()) for table in tables(sums_db)}
    assert {table: count for table, count in rows.items() if count} == counts(sums_db, ours.tenant.id)
    raw = [name for name in archive.namelist() if name.endswith("/raw")]
    assert ours.found_in(b"".join(map(archive.read, raw))) >= {"cell", "label", "column"}
    assert (copies.root / "export.zip").stat().st_mode & 0o077 == 0


def test_an_exports_manifest_names_every_file_with_its_sha256(exported: Any) -> None:
    _, _, archive = exported
    told = json.loads(archive.read(MANIFEST))["files"]
    found = {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist() if name != MANIFEST}
    assert found == told


def test_no_secret_is_exported_and_every_column_that_sounds_like_one_is_named(
    exported: Any, sums_db: psycopg.Connection
) -> None:
    ours, _, archive = exported
    digest = hashlib.sha256(ours.tenant.key.encode()).hexdigest()
    assert digest.encode() not in b"".join(map(archive.read, archive.namelist()))
    query = """SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'
        AND column_name ~ 'secret|token_|password' AND table_name = ANY(%s)"""
    sounding = sums_db.execute(query, [tables(sums_db)]).fetchall()
    assert sounding
    assert [each for each in sounding if each[1] not in SECRETS.get(each[0], ())] == []


def test_an_export_that_breaks_off_leaves_nothing(
    copies: Any, lively: Callable[..., Any], tenant: Any, plane: FakeDataPlane
) -> None:
    canaries = lively(tenant)
    to = copies.root / "folder" / "export.zip"
    to.parent.mkdir()
    damaged = next(path for path in (copies.root / "artifacts").rglob("raw"))
    damaged.write_bytes(b"damaged")
    with pytest.raises(Exception, match="not encrypted"):
        tenant_export(tenant=tenant.id, to=to)
    assert list(to.parent.iterdir()) == []
    with pytest.raises(NotFound):
        tenant_export(tenant=uuid4(), to=to)
    erase(canaries, plane)
    with pytest.raises(NotFound, match="was erased"):
        tenant_export(tenant=tenant.id, to=to)
