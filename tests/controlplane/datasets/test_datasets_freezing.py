"""A frozen version: checked in a child, the same for the same wish, unchangeable, never half there."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tilth.core import storage  # isort: skip
from tilth.core.errors import Invalid, NotFound  # isort: skip

GOOD = b"text,label\n" + b"".join(f"message number {n},{'ab'[n % 2]}\n".encode() for n in range(60))
StoredFile = Callable[..., Any]


def freeze(tenant: Any, file: Any, **facts: Any) -> Any:
    from tilth.datasets.services import SplitOptions, dataset_freeze

    options = SplitOptions(seed=facts.pop("seed", 0), accept_bad_rows=facts.pop("accept_bad_rows", False))
    facts = {"validation_file": None, "test_file": None, "columns": None, **facts}
    return dataset_freeze(
        tenant=tenant.id, vertical="support_chat", training_file=file.id, options=options, **facts
    )  # fmt: skip


def versions_on_disk(artifacts: Path, tenant: Any) -> list[str]:
    return sorted(path.name for path in (artifacts / "tenants" / tenant.id.hex / "datasets").glob("*"))


@pytest.mark.slow
def test_the_same_wish_gives_the_same_version_and_another_seed_another(
    tenant: Any, stored_file: StoredFile, artifacts: Path
) -> None:
    file = stored_file(tenant, GOOD)
    first = freeze(tenant, file)
    assert freeze(tenant, file).id == first.id
    assert freeze(tenant, stored_file(tenant, GOOD, filename="copy.csv")).id == first.id
    assert freeze(tenant, file, seed=1).sha256 != first.sha256
    assert hashlib.sha256(storage.read(first.path)).hexdigest() == first.sha256
    assert (first.rows, first.splits) == (60, {"train": 48, "validation": 6, "test": 6})
    assert len(versions_on_disk(artifacts, tenant)) == 2


@pytest.mark.slow
def test_the_app_can_neither_change_nor_remove_a_frozen_version(
    tenant: Any, stored_file: StoredFile, app_db: psycopg.Connection
) -> None:
    version = freeze(tenant, stored_file(tenant, GOOD))
    for statement in ("UPDATE datasets_datasetversion SET sha256 = ''", "DELETE FROM datasets_datasetversion"):
        with app_db.transaction(force_rollback=True):
            app_db.execute("SELECT set_config('tilth.tenant', %s, true)", [str(tenant.id)])
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app_db.execute(f"{statement} WHERE id = %s", [version.id])


def test_a_refusal_names_line_column_value_and_cure(tenant: Any, stored_file: StoredFile, artifacts: Path) -> None:
    with pytest.raises(Invalid) as refused:
        freeze(tenant, stored_file(tenant, GOOD + b"  ,a\n"))
    assert refused.value.message == (
        '1 of 61 rows cannot be learned from: rows.csv, line 62, column "text": the message is empty; fill it in '
        "or remove the row. Mend them and upload the file again, or send accept_bad_rows to go on without them."
    )
    assert (refused.value.reason, refused.value.param) == ("bad_rows", "training_file")
    assert versions_on_disk(artifacts, tenant) == []


@pytest.mark.slow
def test_bad_rows_are_left_out_on_request_and_the_report_says_which(tenant: Any, stored_file: StoredFile) -> None:
    version = freeze(tenant, stored_file(tenant, GOOD + b"  ,a\n"), accept_bad_rows=True)
    assert version.report["rows"] == {"read": 61, "kept": 60, "left_out": 1}
    assert [problem["line"] for problem in version.report["problems"]["first"]] == [62]


@pytest.mark.slow
def test_a_file_that_is_gone_is_not_found_and_a_frozen_version_outlives_it(
    tenant: Any, other_tenant: Any, stored_file: StoredFile, artifacts: Path
) -> None:
    from tilth.datasets.services import file_delete
    from tilth.datasets.tasks import remove_bytes

    file = stored_file(tenant, GOOD)
    version = freeze(tenant, file)
    file_delete(tenant=tenant.id, by=tenant.principal, file=file.id)
    remove_bytes(tenant=tenant.id.hex, file=file.id.hex)
    assert (artifacts / version.path).exists()
    for caller, asked in ((tenant, file), (other_tenant, stored_file(tenant, GOOD))):
        with pytest.raises(NotFound, match="No such file: file-"):
            freeze(caller, asked)


@pytest.mark.slow
def test_a_worker_killed_after_storing_leaves_no_row_and_the_next_try_makes_the_version(
    tenant: Any, stored_file: StoredFile, artifacts: Path, sums_db: psycopg.Connection
) -> None:
    file = stored_file(tenant, GOOD)
    script = (
        "import django; django.setup(); from uuid import UUID; from tilth.datasets.services import dataset_freeze;"
        f"dataset_freeze(tenant=UUID('{tenant.id}'), vertical='support_chat', training_file=UUID('{file.id}'))"
    )
    env = os.environ | {"TILTH_CRASH_AT": "freeze.stored"}
    killed = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    count = "SELECT count(*) FROM datasets_datasetversion WHERE tenant_id = %s"
    assert sums_db.execute(count, [tenant.id]).fetchone() == (0,)
    assert (len(versions_on_disk(artifacts, tenant)), freeze(tenant, file).rows) == (1, 60)
    assert sums_db.execute(count, [tenant.id]).fetchone() == (1,)


@pytest.mark.slow
def test_two_workers_freezing_at_once_make_one_version(tenant: Any, stored_file: StoredFile, artifacts: Path) -> None:
    from django.db import connections

    file, made = stored_file(tenant, GOOD), []

    def work() -> None:
        made.append(freeze(tenant, file).id)
        connections.close_all()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 1
    assert versions_on_disk(artifacts, tenant) == [made[0].hex]


@pytest.mark.slow
def test_a_child_over_its_memory_dies_alone_and_says_so(tmp_path: Path) -> None:
    from tilth.datasets.sandbox import Limits, run_child

    table = tmp_path / "wide.csv"
    table.write_bytes(b"text,label\n" + (b'"' + b"x" * (30 << 20) + b'",a\n') * 4)
    order = {"work": "inspect", "path": str(table), "schemas": {}}
    with pytest.raises(Invalid, match="takes more than 200 MiB of memory to check"):
        run_child(order, tmp_path, Limits(memory_bytes=200 << 20))


@pytest.mark.slow
def test_a_child_over_its_time_is_ended_and_says_so(tmp_path: Path) -> None:
    from tilth.datasets.sandbox import Limits, run_child

    table = tmp_path / "long.csv"
    table.write_bytes(b"text,label\n" + b"a message,a\n" * 4_000_000)
    order = {"work": "inspect", "path": str(table), "schemas": {}}
    with pytest.raises(Invalid, match="takes more than 1 s of computing to check"):
        run_child(order, tmp_path, Limits(cpu_s=1))


def test_the_child_knows_nothing_of_our_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tilth.datasets import sandbox

    dump = "import os, json; open('answer.json', 'w').write(json.dumps({'report': dict(os.environ)}))"
    started = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **how: started([command[0], "-c", dump], **how))
    seen = sandbox.run_child({"work": "inspect"}, tmp_path)
    assert {name for name in seen if name.startswith(("TILTH", "DATABASE", "DJANGO"))} == set()
