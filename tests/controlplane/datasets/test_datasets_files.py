"""A file's life: created, checked by the worker's child, listed in pages, read, deleted, expired."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import openai
import psycopg
import pytest

GOOD = b"utterance;category\n" + b"".join(f"message number {n};{'ab'[n % 2]}\n".encode() for n in range(40))
ROOT = Path(__file__).resolve().parents[3]
StoredFile = Callable[..., Any]


def check(tenant: Any, file: Any) -> Any:
    from tilth.datasets.selectors import file_get
    from tilth.datasets.services import file_check

    file_check(tenant=tenant.id, file=file.id)
    return file_get(tenant=tenant.id, file=file.id)


def tasks(db: psycopg.Connection, file: Any) -> list[str]:
    found = db.execute("SELECT task_name FROM procrastinate_jobs WHERE args->>'file' = %s ORDER BY id", [file.id.hex])
    return [name for (name,) in found]


def test_a_good_file_is_processed_and_its_report_names_columns_and_roles(tenant: Any, stored_file: StoredFile) -> None:
    found = check(tenant, stored_file(tenant, GOOD))
    assert (found.status, found.status_details) == ("processed", "")
    assert (found.report["rows"], found.report["delimiter"]) == (40, ";")
    roles = found.report["roles"]["support_chat"]
    assert {match["role"]: match["column"] for match in roles["columns"]} == {
        "text": "utterance",
        "label": "category",
    }
    assert found.report["preview"][0] == {"line": 2, "cells": ["message number 0", "a"]}


def test_a_file_with_some_bad_rows_is_processed_and_says_where(tenant: Any, stored_file: StoredFile) -> None:
    found = check(tenant, stored_file(tenant, GOOD + b"too;many;cells\n"))
    assert found.status == "processed"
    assert found.status_details.startswith("1 of 41 rows cannot be read, the first at line 42: the row has 3 cells")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "The file is empty"),
        (b'{"messages": [{"role": "user", "content": "hi"}]}\n', "OpenAI's chat format"),
    ],
)
def test_what_is_no_table_is_an_error_that_says_what_to_send(
    tenant: Any, stored_file: StoredFile, content: bytes, told: str
) -> None:
    found = check(tenant, stored_file(tenant, content))
    assert found.status == "error"
    assert told in found.status_details


def test_checking_twice_changes_nothing(tenant: Any, stored_file: StoredFile) -> None:
    file = stored_file(tenant, GOOD)
    first = check(tenant, file)
    assert check(tenant, file).report == first.report


def test_a_file_is_to_be_checked_from_the_moment_it_exists(
    tenant: Any, stored_file: StoredFile, sums_db: psycopg.Connection
) -> None:
    assert tasks(sums_db, stored_file(tenant, GOOD)) == ["datasets.check_file"]
    assert tasks(sums_db, stored_file(tenant, GOOD, purpose="batch")) == []


def test_a_deleted_file_is_gone_at_once_and_its_bytes_with_the_worker(
    tenant: Any, stored_file: StoredFile, artifacts: Path, sums_db: psycopg.Connection
) -> None:
    from tilth.datasets.tasks import remove_bytes

    file = stored_file(tenant, GOOD)
    assert (artifacts / file.path).exists()
    answer = tenant.client.delete(f"/v1/files/file-{file.id.hex}")
    assert answer.json() == {"id": f"file-{file.id.hex}", "object": "file", "deleted": True}
    assert tenant.client.get(f"/v1/files/file-{file.id.hex}").status_code == 404
    assert tasks(sums_db, file) == ["datasets.check_file", "datasets.remove_bytes"]
    for _ in range(2):
        remove_bytes(tenant=tenant.id.hex, file=file.id.hex)
    assert not (artifacts / file.path).parent.exists()


def test_files_may_be_deleted_while_their_pages_are_read(
    tenant: Any, stored_file: StoredFile, sdk: openai.OpenAI
) -> None:
    """The SDK asks for what comes after the last file of a page when the caller has done with that page."""
    made = [f"file-{stored_file(tenant, GOOD).id.hex}" for _ in range(5)]
    deleted = [sdk.files.delete(file.id).id for file in sdk.files.list(limit=2)]
    assert deleted == made[::-1]


def test_files_are_listed_in_pages_newest_first_by_purpose(tenant: Any, stored_file: StoredFile) -> None:
    made = [f"file-{stored_file(tenant, GOOD, filename=f'{n}.csv').id.hex}" for n in range(5)]
    stored_file(tenant, b"x", purpose="batch")
    query: dict[str, Any] = {"limit": 2, "purpose": "fine-tune"}
    seen = []
    while True:
        page = tenant.client.get("/v1/files", query).json()
        seen += [file["id"] for file in page["data"]]
        if not page["has_more"]:
            break
        query["after"] = page["last_id"]
    assert seen == made[::-1]
    assert [file["id"] for file in tenant.client.get("/v1/files?order=asc&purpose=fine-tune").json()["data"]] == made


def test_another_tenants_file_is_as_unknown_as_any(tenant: Any, other_tenant: Any, stored_file: StoredFile) -> None:
    theirs = f"file-{stored_file(other_tenant, GOOD).id.hex}"
    nobodys = f"file-{'0' * 32}"
    for path in ("/v1/files/{}", "/v1/files/{}/content", "/v1/files?after={}", "/api/files/{}/report"):
        answers = [tenant.client.get(path.format(id_)) for id_ in (theirs, nobodys)]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert answers[0].json() == {"error": {**answers[1].json()["error"], "message": f"No such file: {theirs}"}}


def test_content_is_what_was_uploaded(tenant: Any, stored_file: StoredFile) -> None:
    content = os.urandom(3_000_000)
    answer = tenant.client.get(f"/v1/files/file-{stored_file(tenant, content).id.hex}/content")
    assert b"".join(answer.streaming_content) == content
    assert answer["Content-Length"] == "3000000"


@pytest.mark.slow
def test_an_expired_file_is_gone_before_the_sweep_and_swept_by_it(
    tenant: Any, stored_file: StoredFile, sums_db: psycopg.Connection
) -> None:
    from tilth.core.clock import frozen, now
    from tilth.datasets.selectors import file_list
    from tilth.datasets.sweeping import sweep

    file = stored_file(tenant, GOOD, expires_after_s=3600)
    with frozen(now() + timedelta(hours=2)):
        assert file_list(tenant=tenant.id, limit=10) == ([], False)
        sweep()
        sweep()
    assert tasks(sums_db, file) == ["datasets.check_file", "datasets.remove_bytes"]


def test_the_sweep_removes_old_objects_without_a_row_and_no_others(
    tenant: Any, stored_file: StoredFile, artifacts: Path
) -> None:
    from tilth.core.clock import frozen, now
    from tilth.core.ids import uuid7
    from tilth.core.storage import put_stream
    from tilth.datasets.services import file_path
    from tilth.datasets.sweeping import remove_orphans

    kept, orphan = stored_file(tenant, GOOD), uuid7()
    put_stream(file_path(tenant.id, orphan), [b"left by a process that was killed"])
    remove_orphans(tenant.id)
    assert (artifacts / file_path(tenant.id, orphan)).exists()
    with frozen(now() + timedelta(days=2)):
        remove_orphans(tenant.id)
    assert not (artifacts / file_path(tenant.id, orphan)).exists()
    assert (artifacts / kept.path).exists()


@pytest.mark.slow
def test_the_queues_worker_checks_an_upload_by_itself(
    clean_database: None, tenant: Any, stored_file: StoredFile
) -> None:
    from tilth.datasets.selectors import file_get

    file = stored_file(tenant, GOOD)
    command = [sys.executable, "-W", "ignore", str(ROOT / "manage.py"), "procrastinate", "worker", "--one-shot"]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    assert file_get(tenant=tenant.id, file=file.id).status == "processed"


@pytest.mark.slow
def test_a_worker_killed_after_the_check_leaves_the_file_to_be_checked_again(
    tenant: Any, stored_file: StoredFile
) -> None:
    file = stored_file(tenant, GOOD)
    script = (
        "import django; django.setup(); from uuid import UUID; from tilth.datasets.services import file_check;"
        f"file_check(tenant=UUID('{tenant.id}'), file=UUID('{file.id}'))"
    )
    env = os.environ | {"TILTH_CRASH_AT": "file.checked"}
    killed = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    from tilth.datasets.selectors import file_get

    assert file_get(tenant=tenant.id, file=file.id).status == "uploaded"
    assert check(tenant, file).status == "processed"
