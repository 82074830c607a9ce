"""A product is backed up whole or not at all, and restored to the byte: rows, grants, policies, objects, keys."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tilth.core import storage
from tilth.core.keystore import KeyStore, group_key
from tilth.local.backup import backup, mirror_keys
from tilth.local.dump import TABLES, count_rows, snapshot
from tilth.local.kept import kept
from tilth.local.manifest import NAME, BackupRefused, read_manifest
from tilth.local.places import restoring
from tilth.local.postgres import APP, OWNER, SYSTEM, Postgres, binaries
from tilth.local.restore import refuse_half_restored, restore

pytestmark = pytest.mark.slow

ROWS = b"text,label\n" + b"".join(f"message number {n},{'ab'[n % 2]}\n".encode() for n in range(40))


def schema(server: Postgres) -> list[str]:
    """All that PostgreSQL says of the schema: tables, constraints, triggers, owners, grants, policies, defaults."""
    command = [str(binaries() / "pg_dump"), "--schema-only", "--dbname", server.url("postgres")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]
    # A list of varchar is cast as a whole before it is dumped and element by element after: the same condition.
    return [re.sub(r"::(text|character varying)(\[\])?|[()]", "", line) for line in lines]


def roles(server: Postgres) -> list[Any]:
    query = """SELECT rolname, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolcanlogin,
        has_database_privilege(oid, 'tilth', 'CONNECT'), has_database_privilege(oid, 'tilth', 'CREATE')
        FROM pg_roles WHERE rolname LIKE 'tilth%' ORDER BY 1"""
    with psycopg.connect(server.url("postgres")) as db:
        return db.execute(query).fetchall()


def test_a_restored_product_has_the_same_rows_rights_objects_and_keys(
    copies: Any, tenant: Any, other_tenant: Any, upload: Callable[..., Any], database: Postgres, fresh: Postgres
) -> None:
    files = [upload(tenant), upload(other_tenant, ROWS * 50_000)]
    made = copies.backup()
    assert made.rows == count_rows(database.url("postgres"))
    assert made.rows["datasets_file"] == 2
    assert copies.restore(copies.target(fresh)) == made
    fresh.start()
    assert schema(fresh) == schema(database)
    assert roles(fresh) == roles(database)
    assert count_rows(fresh.url("postgres")) == made.rows
    for file in files:
        path = copies.root / "new" / "artifacts" / file.path
        assert path.read_bytes() == (copies.root / "artifacts" / file.path).read_bytes()
        store = KeyStore(copies.root / "new" / "keys" / "tenants")
        assert group_key(store, file.path) == storage.object_key(file.path)
    with psycopg.connect(fresh.url(APP)) as app:
        assert app.execute("SELECT count(*) FROM datasets_file").fetchone() == (0,), "no scope, no rows, as before"
    with psycopg.connect(fresh.url(APP)) as app:
        app.execute("SELECT set_config('tilth.tenant', %s, true)", [str(tenant.id)])
        assert app.execute("SELECT sha256 FROM datasets_file").fetchall() == [(files[0].sha256,)]
    assert set(roles(fresh)) == set(roles(database))
    assert {row[0] for row in roles(fresh)} == {APP, OWNER, SYSTEM}


def test_neither_keys_nor_plain_rows_lie_in_the_backup(copies: Any, tenant: Any, upload: Callable[..., Any]) -> None:
    upload(tenant)
    copies.backup()
    key = copies.product.keystore / tenant.id.hex
    assert (copies.keys / "tenants" / tenant.id.hex).read_bytes() == key.read_bytes()
    whole = b"".join(path.read_bytes() for path in copies.folder.rglob("*") if path.is_file())
    assert key.read_bytes() not in whole
    assert b"message number 7" not in whole
    assert [path.stat().st_mode & 0o077 for path in (copies.folder, copies.keys)] == [0, 0]


def test_what_is_deleted_while_a_backup_runs_leaves_storage_after_it(
    copies: Any, tenant: Any, upload: Callable[..., Any]
) -> None:
    from tilth.core.errors import Unavailable
    from tilth.datasets.services import file_delete
    from tilth.datasets.tasks import remove_bytes

    file = upload(tenant)
    with snapshot(copies.product.database()) as taken:
        assert taken.objects == [file.path]
        file_delete(tenant=tenant.id, by=tenant.principal, file=file.id)
        with pytest.raises(Unavailable, match="A backup runs"):
            remove_bytes(tenant.id.hex, file.id.hex)
        assert storage.exists(file.path)
    remove_bytes(tenant.id.hex, file.id.hex)
    assert not storage.exists(file.path)


def test_an_object_that_rows_name_and_storage_has_not_stops_the_backup(
    copies: Any, tenant: Any, upload: Callable[..., Any]
) -> None:
    file = upload(tenant)
    upload(tenant)
    storage.delete_prefix(file.path)
    (copies.root / "artifacts" / file.path).unlink()
    with pytest.raises(BackupRefused, match=f"1 objects that rows name are not in storage, the first {file.path}"):
        copies.backup()
    with pytest.raises(BackupRefused, match="broken off"):
        read_manifest(copies.folder)


def test_a_backup_is_refused_over_another_and_beside_its_keys(copies: Any) -> None:
    copies.folder.mkdir()
    (copies.folder / "something").touch()
    with pytest.raises(BackupRefused, match="not an empty folder"):
        copies.backup()
    (copies.folder / "something").unlink()
    with pytest.raises(BackupRefused, match="lie in each other"):
        backup(copies.product, copies.folder, copies.folder / "keys", lambda _: None)


def test_a_backup_that_is_not_as_it_was_made_is_refused_and_nothing_is_restored(
    copies: Any, tenant: Any, upload: Callable[..., Any]
) -> None:
    path = copies.folder / "artifacts" / upload(tenant).path
    copies.backup()
    manifest = json.loads((copies.folder / NAME).read_text())

    def refused(why: str) -> None:
        with pytest.raises(BackupRefused, match=why):
            copies.restore(copies.target())
        assert not (copies.root / "new" / "artifacts").exists()
        assert not (copies.root / "new" / "keys").exists()

    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refused("has sha256")
    path.unlink()
    refused("is missing")
    content[-1] ^= 1
    path.write_bytes(content)
    (copies.folder / "artifacts" / "foreign").touch()
    refused("not part of the backup")
    (copies.folder / "artifacts" / "foreign").unlink()
    (copies.folder / NAME).write_text(json.dumps(manifest | {"migrations": ["datasets.9999_from_the_future"]}))
    refused("schema is newer, it has datasets.9999_from_the_future")
    (copies.folder / NAME).write_text(json.dumps(manifest | {"format": 2}))
    refused("not of format 1")
    (copies.folder / NAME).unlink()
    refused("broken off")


def test_nothing_is_restored_over_anything_or_without_keys(
    copies: Any, tenant: Any, upload: Callable[..., Any]
) -> None:
    upload(tenant)
    copies.backup()
    with pytest.raises(BackupRefused, match=r"artifacts is not empty"):
        copies.restore(replace(copies.target(), artifacts=copies.product.artifacts))
    with pytest.raises(BackupRefused, match="tenants is not empty"):
        copies.restore(replace(copies.target(), keystore=copies.product.keystore))
    external = replace(copies.target(), admin_url=copies.product.database())
    with pytest.raises(BackupRefused, match="the database is not empty"):
        copies.restore(external)
    assert list((copies.root / "new").iterdir()) == []
    restoring(copies.root / "new").touch()
    with pytest.raises(BackupRefused, match="was broken off"):
        copies.restore(copies.target())
    with pytest.raises(BackupRefused, match="was broken off"):
        refuse_half_restored(copies.root / "new")
    with pytest.raises(BackupRefused, match="no tenants' keys"):
        restore(copies.target(), copies.root / "other", copies.folder, copies.root / "nowhere", lambda _: None)


def test_a_backup_killed_in_the_middle_is_none(copies: Any, tenant: Any, upload: Callable[..., Any]) -> None:
    upload(tenant)
    os.mkfifo(copies.root / "artifacts" / "tenants" / "hangs")  # whoever reads it waits for ever
    env = os.environ | {
        "TILTH_VAR": str(copies.root / "var"),
        "TILTH_ARTIFACTS": copies.product.artifacts,
        "TILTH_KEYSTORE": str(copies.product.keystore),
        "DATABASE_URL_ADMIN": copies.product.database(),
    }
    command = [sys.executable, "-m", "tilth.local", "backup", str(copies.folder), "--keys", str(copies.keys)]
    process = subprocess.Popen(command, env=env)
    end = time.monotonic() + 60
    while not (copies.folder / "artifacts" / "tenants").exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(BackupRefused, match="broken off"):
        copies.restore(copies.target())
    with snapshot(copies.product.database()):
        pass  # its lock died with it


def test_a_destroyed_key_leaves_its_mirror_too_and_an_older_mirror_brings_none_back(
    copies: Any, tenant: Any, upload: Callable[..., Any]
) -> None:
    upload(tenant)
    mirror_keys(copies.product, copies.keys)
    mirrored = copies.keys / "tenants" / tenant.id.hex
    key = mirrored.read_bytes()
    storage.key_store().destroy(tenant.id, "now")
    mirror_keys(copies.product, copies.keys)
    assert key not in mirrored.read_bytes()
    mirrored.write_bytes(key)
    storage.key_store().take_over(KeyStore(copies.keys / "tenants"))
    assert storage.key_store().tombstone(tenant.id) is not None


def test_a_mirror_never_loses_a_key_to_another(copies: Any, tenant: Any, upload: Callable[..., Any]) -> None:
    upload(tenant)
    copies.backup()
    mirrored = copies.keys / "tenants" / tenant.id.hex
    key = mirrored.read_bytes()
    (copies.product.keystore / tenant.id.hex).write_text("ab" * 32)
    with pytest.raises(BackupRefused, match="are different keys"):
        mirror_keys(copies.product, copies.keys)
    assert mirrored.read_bytes() == key


def test_a_role_that_row_level_security_binds_is_refused(database: Postgres) -> None:
    with pytest.raises(BackupRefused, match="give a superuser"), snapshot(database.url(OWNER)):
        pass


def test_a_database_of_ones_own_needs_a_superusers_url(tmp_path: Path) -> None:
    with pytest.raises(BackupRefused, match="DATABASE_URL_ADMIN"):
        kept(tmp_path, {"DATABASE_URL": "postgresql://a@/b"})


def test_every_table_is_in_the_snapshot(copies: Any, sums_db: psycopg.Connection) -> None:
    with snapshot(copies.product.database()) as taken:
        assert sorted(taken.rows) == sorted(name for (name,) in sums_db.execute(TABLES))
        assert len(taken.rows) > 30
