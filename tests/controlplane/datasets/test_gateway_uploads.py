"""Uploads through a real web process: the SDK's calls, a client that leaves, a process that is killed, flat memory."""

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import django.db
import openai
import psycopg
import pytest
from tilth.core import storage
from tilth.core.scope import tenant_scope

from tests.controlplane.leftovers import left_behind
from tests.product import eventually
from tests.web import Web, start

GOOD = b"utterance,category\r\n" + b"".join(f"message number {n},{'ab'[n % 2]}\r\n".encode() for n in range(40))
BOUNDARY = "b0undary"
MIB = 1 << 20


def form(content: bytes, name: str = "rows.csv") -> tuple[bytes, bytes]:
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    )
    return head.encode() + content, f"\r\n--{BOUNDARY}--\r\n".encode()


@contextlib.contextmanager
def upload(web: Web, key: str, length: int) -> Iterator[http.client.HTTPConnection]:
    """The head of a request whose body is still to be sent."""
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=120)
    connection.putrequest("POST", "/v1/files")
    connection.putheader("Authorization", f"Bearer {key}")
    connection.putheader("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
    connection.putheader("Content-Length", str(length))
    connection.endheaders()
    with contextlib.closing(connection):
        yield connection


@pytest.mark.slow
def test_the_unmodified_sdk_uploads_waits_reads_lists_and_deletes(sdk: openai.OpenAI, tenant: Any) -> None:
    from tilth.core.ids import parse
    from tilth.datasets.services import file_check

    made = sdk.files.create(
        file=("Zeilen 1.csv", GOOD), purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 7200}
    )
    assert (made.object, made.filename, made.bytes, made.status) == ("file", "Zeilen 1.csv", len(GOOD), "uploaded")
    assert made.expires_at == made.created_at + 7200
    file_check(tenant=tenant.id, file=parse("file", made.id))
    assert sdk.files.wait_for_processing(made.id, poll_interval=0.01).status == "processed"
    assert sdk.files.content(made.id).read() == GOOD
    others = [sdk.files.create(file=(f"{n}.csv", GOOD), purpose="user_data").id for n in range(4)]
    assert [file.id for file in sdk.files.list(limit=2)] == [*others[::-1], made.id]
    assert [file.id for file in sdk.files.list(purpose="fine-tune")] == [made.id]
    assert sdk.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError, match="No such file"):
        sdk.files.retrieve(made.id)


def test_the_sdk_gets_the_right_exception_for_each_error(web: Web, sdk: openai.OpenAI, tenant: Any) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.files.create(file=("x.csv", GOOD), purpose="dancing")  # type: ignore[arg-type]
    assert (refused.value.param, "There is no purpose 'dancing'" in str(refused.value)) == ("purpose", True)
    with pytest.raises(openai.AuthenticationError):
        sdk.with_options(api_key="tilth_live_nonsense").files.create(file=("x.csv", GOOD), purpose="fine-tune")
    with pytest.raises(openai.BadRequestError, match="no file name"):
        sdk.post(
            "/files", body={"purpose": "fine-tune", "file": "text"}, cast_to=object,
            options={"headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        )  # fmt: skip


def test_a_key_without_the_right_to_write_files_is_refused_before_the_body(web: Web, tenant: Any) -> None:
    from tilth.tenants.scopes import Scope
    from tilth.tenants.services import key_create

    _, text = key_create(
        tenant=tenant.id, by=tenant.principal, name="reader", scopes=frozenset({Scope.FILES_READ})
    )  # fmt: skip
    with upload(web, text.secret, 10**9) as connection:
        answer = connection.getresponse()
        assert (answer.status, b"files:write" in answer.read()) == (403, True)
    with upload(web, "tilth_live_nonsense", 10**9) as connection:
        assert connection.getresponse().status == 401


def test_a_client_that_leaves_in_the_middle_leaves_nothing(
    web: Web, tenant: Any, artifacts: Path, sums_db: psycopg.Connection
) -> None:
    head, end = form(b"x" * 4 * MIB)
    with upload(web, tenant.key, len(head) + len(end) + MIB) as connection:
        connection.send(head)
        eventually(lambda: [path.suffix for path in left_behind(artifacts, tenant)] == [".part"])
    eventually(lambda: left_behind(artifacts, tenant) == [])
    count = "SELECT count(*) FROM datasets_file WHERE tenant_id = %s"
    assert sums_db.execute(count, [tenant.id]).fetchone() == (0,)


def test_a_form_without_its_end_is_refused_and_leaves_nothing(web: Web, tenant: Any, artifacts: Path) -> None:
    head, _ = form(GOOD)
    with upload(web, tenant.key, len(head)) as connection:
        connection.send(head)
        answer = connection.getresponse()
        assert (answer.status, b"ends before its closing boundary" in answer.read()) == (400, True)
    assert left_behind(artifacts, tenant) == []


@pytest.mark.slow
def test_a_web_process_killed_between_bytes_and_row_leaves_no_file_and_the_sweep_takes_the_bytes(
    tenant: Any, artifacts: Path, sums_db: psycopg.Connection
) -> None:
    from datetime import timedelta

    from tilth.core.clock import frozen, now
    from tilth.datasets.sweeping import remove_orphans

    web = start(TILTH_CRASH_AT="upload.stored")
    try:
        with web.sdk(tenant) as sdk, pytest.raises(openai.APIConnectionError):
            sdk.files.create(file=("x.csv", GOOD), purpose="fine-tune")
        assert web.process.wait(10) == -signal.SIGKILL
    finally:
        web.process.kill()
    count = "SELECT count(*) FROM datasets_file WHERE tenant_id = %s"
    assert sums_db.execute(count, [tenant.id]).fetchone() == (0,)
    assert len(left_behind(artifacts, tenant)) == 1
    with frozen(now() + timedelta(days=2)):
        remove_orphans(tenant.id)
    assert left_behind(artifacts, tenant) == []


@pytest.mark.slow
def test_the_web_process_stays_flat_while_a_large_file_comes_and_goes(web: Web, tenant: Any) -> None:
    size = int(os.environ.get("TILTH_TEST_UPLOAD_MIB", "200"))
    with web.sdk(tenant) as sdk:
        small = sdk.files.create(file=("warm.csv", GOOD), purpose="user_data")
        sdk.files.content(small.id).read()
    idle = web.memory()
    chunk = (b"some words of a customer,label\n" * (MIB // 31 + 1))[:MIB]
    head, end = form(b"")
    with upload(web, tenant.key, len(head) + size * MIB + len(end)) as connection:
        for part in (head, *[chunk] * size, end):
            connection.send(part)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        made = json.loads(answer.read())
    uploaded = web.memory("VmHWM") - idle
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=120)
    connection.request("GET", f"/v1/files/{made['id']}/content", headers={"Authorization": f"Bearer {tenant.key}"})
    got = connection.getresponse()
    received = sum(len(piece) for piece in iter(lambda: got.read(MIB), b""))
    connection.close()
    downloaded = web.memory("VmHWM") - idle
    print(f"idle {idle / MIB:.0f} MiB, upload +{uploaded / MIB:.1f}, content +{downloaded / MIB:.1f}")
    assert (made["bytes"], received) == (size * MIB, size * MIB)
    assert max(uploaded, downloaded) < 40 * 10**6


@pytest.mark.parametrize("lost", [django.db.OperationalError("the connection was lost"), TimeoutError()])
def test_a_commit_whose_answer_is_lost_keeps_the_bytes_of_its_row(
    tenant: Any, artifacts: Path, monkeypatch: pytest.MonkeyPatch, lost: Exception
) -> None:
    from tilth.core.idempotency import once
    from tilth.datasets.models import File
    from tilth.gateway import uploads

    def commit_and_lose(**facts: Any) -> dict[str, Any]:
        once(**facts)
        raise lost

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"".join(form(GOOD))}

    async def send(message: Mapping[str, Any]) -> None:
        raise AssertionError(message)

    monkeypatch.setattr(uploads, "once", commit_and_lose)
    scope = {"headers": [(b"content-type", f"multipart/form-data; boundary={BOUNDARY}".encode())]}
    with pytest.raises(type(lost)):
        asyncio.run(uploads.upload_file(scope, receive, send, tenant.principal))
    with tenant_scope(tenant.id):
        made = File.objects.get()
    assert left_behind(artifacts, tenant) == [artifacts / made.path]
    assert storage.read(made.path) == GOOD


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Four mebibytes that can be full; needs the right to mount."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={4 * MIB}", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_507_leaves_nothing_and_the_next_upload_that_fits_is_kept(
    tenant: Any, small_disk: Path, sums_db: psycopg.Connection
) -> None:
    web = start(TILTH_ARTIFACTS=f"file://{small_disk}")
    try:
        with web.sdk(tenant) as sdk:
            for _ in range(2):
                with pytest.raises(openai.InternalServerError) as refused:
                    sdk.files.create(file=("large.csv", GOOD * (6 * MIB // len(GOOD))), purpose="fine-tune")
                assert (refused.value.status_code, refused.value.code) == (507, "storage_full")
                assert refused.value.response.headers["retry-after"]
                assert left_behind(small_disk, tenant) == []
            small = sdk.files.create(file=("small.csv", GOOD), purpose="fine-tune")
            assert sdk.files.content(small.id).read() == GOOD
    finally:
        web.process.kill()
        web.process.wait(10)
    count = "SELECT count(*) FROM datasets_file WHERE tenant_id = %s"
    assert sums_db.execute(count, [tenant.id]).fetchone() == (1,)
