"""The SDK tries again after a web process was killed between commit and reply, and while the first try is under way."""

import io
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any

import openai
import psycopg
import pytest
from tilth.core import storage

from tests.controlplane.leftovers import left_behind
from tests.web import free_port, web

ROWS = b"text,label\n" + b"".join(f"message number {n},{'ab'[n % 2]}\n".encode() for n in range(40))
RETRIES = 8

pytestmark = pytest.mark.slow


@pytest.fixture
def port() -> int:
    return free_port()


def upload(client: openai.OpenAI) -> str:
    return client.files.create(file=("rows.csv", io.BytesIO(ROWS)), purpose="fine-tune").id


def killed_before_its_reply(port: int, tenant: Any, crash_at: str, ask: Callable[[openai.OpenAI], Any]) -> Any:
    """What the SDK returns in the end, after the first process has died at its crash point and another came."""
    found: list[Any] = []
    with web(port, TILTH_CRASH_AT=crash_at) as first, first.sdk(tenant, RETRIES) as client:
        asking = Thread(target=lambda: found.append(ask(client)))
        asking.start()
        assert first.process.wait(30) == -signal.SIGKILL, "it died where it was meant to"
        with web(port):
            asking.join(60)
    return found[0]


def test_an_upload_killed_between_commit_and_reply_is_one_file(
    tenant: Any, port: int, sums_db: psycopg.Connection, artifacts: Path
) -> None:
    file = killed_before_its_reply(port, tenant, "upload.committed", upload)
    rows = sums_db.execute(
        "SELECT replace(id::text, '-', ''), path FROM datasets_file WHERE tenant_id = %s", [tenant.id]
    )
    ((id_, path),) = rows.fetchall()
    assert file == f"file-{id_}"
    assert left_behind(artifacts, tenant) == [artifacts / path], "the second try's bytes are gone again"
    assert storage.read(path) == ROWS


def test_a_job_killed_between_commit_and_reply_is_one_job(tenant: Any, port: int, sums_db: psycopg.Connection) -> None:
    with web(port) as only, only.sdk(tenant) as client:
        file = upload(client)
    job = killed_before_its_reply(
        port, tenant, "reply.committed",
        lambda client: client.fine_tuning.jobs.create(
            model="minilm-l6", training_file=file, extra_body={"vertical": "support_chat"}
        ).id,
    )  # fmt: skip
    count = "SELECT replace(id::text, '-', '') FROM training_job WHERE tenant_id = %s"
    assert sums_db.execute(count, [tenant.id]).fetchall() == [(job.removeprefix("ftjob-"),)]


def test_tries_of_one_request_at_the_same_time_in_any_order_make_one_thing(
    tenant: Any, port: int, sums_db: psycopg.Connection
) -> None:
    """Eight tries under one Idempotency-Key, as a client behind an impatient proxy sends them."""
    with web(port) as only, only.sdk(tenant, RETRIES) as client, ThreadPoolExecutor(8) as pool:
        file = upload(client)
        order: dict[str, Any] = {
            "model": "minilm-l6", "training_file": file, "extra_body": {"vertical": "support_chat"},
            "extra_headers": {"Idempotency-Key": "once"},
        }  # fmt: skip
        made = {job.id for job in pool.map(lambda _: client.fine_tuning.jobs.create(**order), range(8))}
    count = "SELECT count(*) FROM training_job WHERE tenant_id = %s"
    assert (len(made), sums_db.execute(count, [tenant.id]).fetchone()) == (1, (1,))
