"""Uploads in parts through a real web process, by the SDK: any order, twice, cut off, killed, resumed, refused."""

import contextlib
import http.client
import os
import random
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

import openai
import psycopg
import pytest
from tilth.core import storage
from tilth.core.ids import uuid7

from tests.controlplane.leftovers import kept, left_behind
from tests.part_client import upload_by_two, write_rows
from tests.product import eventually
from tests.web import Web, start

PART = 100_000
CONTENT = b"utterance,category\r\n" + b"".join(f"message number {n},{'ab'[n % 2]}\r\n".encode() for n in range(20_000))
PIECES = [CONTENT[begin : begin + PART] for begin in range(0, len(CONTENT), PART)]
ROWS = "SELECT count(*) FROM datasets_file WHERE tenant_id = %s"


def opened(sdk: openai.OpenAI, size: int = len(CONTENT)) -> str:
    return sdk.uploads.create(bytes=size, filename="rows.csv", mime_type="text/csv", purpose="fine-tune").id


def sent(sdk: openai.OpenAI, upload: str, pieces: list[bytes] = PIECES) -> list[str]:
    return [sdk.uploads.parts.create(upload, data=piece).id for piece in pieces]


def md5_of(content: bytes) -> str:
    return md5(content, usedforsecurity=False).hexdigest()


def swept(tenant: Any, *uploads: str) -> None:
    """What the worker does once an upload is closed."""
    from tilth.datasets.tasks import remove_parts

    for upload in uploads:
        remove_parts(tenant=tenant.id.hex, upload=upload.removeprefix("upload-"))


def refused(ask: Callable[[], Any]) -> tuple[str, str]:
    """(code, message) of a 400."""
    with pytest.raises(openai.BadRequestError) as error:
        ask()
    return str(error.value.code), str(error.value.body["message"])  # type: ignore[index]


@pytest.mark.slow
def test_the_unmodified_sdk_uploads_a_file_in_chunks(
    sdk: openai.OpenAI, tenant: Any, tmp_path: Path, artifacts: Path
) -> None:
    path = tmp_path / "Zeilen 1.csv"
    path.write_bytes(CONTENT)
    upload = sdk.uploads.upload_file_chunked(
        file=path, mime_type="text/csv", purpose="fine-tune", part_size=PART, md5=md5_of(CONTENT)
    )
    assert (upload.object, upload.status, upload.bytes) == ("upload", "completed", len(CONTENT))
    assert upload.expires_at == upload.created_at + 3600
    assert upload.file is not None
    file = sdk.files.retrieve(upload.file.id)
    assert file == upload.file
    assert (file.filename, file.bytes, file.purpose, file.status) == (path.name, len(CONTENT), "fine-tune", "uploaded")
    assert sdk.files.content(file.id).read() == CONTENT
    swept(tenant, upload.id)
    assert kept(artifacts, tenant) == [CONTENT]


def test_an_upload_is_opened_with_the_life_of_its_file(sdk: openai.OpenAI) -> None:
    upload = sdk.uploads.create(
        bytes=3, filename="../a\\b.csv", mime_type="text/csv", purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 7200},
    )  # fmt: skip
    assert (upload.filename, upload.status, upload.file) == ("b.csv", "pending", None)
    file = sdk.uploads.complete(upload.id, part_ids=sent(sdk, upload.id, [b"abc"])).file
    assert file is not None
    assert file.expires_at == file.created_at + 7200


def test_parts_may_come_in_any_order_at_the_same_time_and_twice(
    sdk: openai.OpenAI, tenant: Any, artifacts: Path
) -> None:
    upload = opened(sdk)
    order = list(range(len(PIECES))) * 2
    random.Random(5).shuffle(order)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda place: sdk.uploads.parts.create(upload, data=PIECES[place]).id, order))
    last = dict(zip(order, made, strict=True))
    done = sdk.uploads.complete(upload, part_ids=[last[place] for place in range(len(PIECES))])
    assert done.file is not None
    assert sdk.files.content(done.file.id).read() == CONTENT
    swept(tenant, upload)
    assert len(left_behind(artifacts, tenant)) == 1


def test_equal_parts_of_one_file_stay_two_also_when_one_is_a_retry(sdk: openai.OpenAI) -> None:
    upload = opened(sdk, 6)
    again = {"x-stainless-retry-count": "1"}
    parts = [sdk.uploads.parts.create(upload, data=b"abc", extra_headers=again).id for _ in range(2)]
    file = sdk.uploads.complete(upload, part_ids=parts).file
    assert file is not None
    assert sdk.files.content(file.id).read() == b"abcabc"


def test_completing_twice_in_turn_or_at_once_is_one_file(
    sdk: openai.OpenAI, tenant: Any, sums_db: psycopg.Connection, artifacts: Path
) -> None:
    upload = opened(sdk)
    parts = sent(sdk, upload)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: sdk.uploads.complete(upload, part_ids=parts).file, range(4)))
    again = sdk.uploads.complete(upload, part_ids=parts)
    assert (again.status, {file and file.id for file in made}) == ("completed", {again.file and again.file.id})
    assert sums_db.execute(ROWS, [tenant.id]).fetchone() == (1,)
    swept(tenant, upload)
    assert len(left_behind(artifacts, tenant)) == 1
    assert refused(lambda: sdk.uploads.complete(upload, part_ids=parts[::-1]))[0] == "upload_completed"
    assert refused(lambda: sdk.uploads.parts.create(upload, data=b"x"))[0] == "upload_completed"
    assert refused(lambda: sdk.uploads.cancel(upload))[0] == "upload_completed"


def test_parts_that_do_not_make_up_the_file_are_told_and_can_be_completed_after_all(sdk: openai.OpenAI) -> None:
    upload, other = opened(sdk), opened(sdk)
    parts = sent(sdk, upload)
    (foreign,) = sent(sdk, other, PIECES[:1])

    def told(part_ids: list[str], **more: Any) -> tuple[str, str]:
        return refused(lambda: sdk.uploads.complete(upload, part_ids=part_ids, **more))

    size = len(CONTENT)
    assert told(parts[:-1]) == (
        "wrong_size",
        f"The parts named have {size - len(PIECES[-1]):,} bytes, but the upload was opened for {size:,}; "
        f"not named are {parts[-1]} ({len(PIECES[-1]):,} bytes).",
    )
    assert told([*parts, parts[0]]) == (
        "part_twice", f"part_ids names {parts[0]} twice, at 0 and at {len(parts)}; name each part once."
    )  # fmt: skip
    assert told([foreign, *parts[1:]])[0] == "unknown_part"
    assert f"part_ids[0] is '{foreign}', which is no part of this upload" in told([foreign, *parts[1:]])[1]
    wrong = [parts[1], parts[0], *parts[2:]]
    code, message = told(wrong, md5=md5_of(CONTENT))
    assert (code, md5_of(PIECES[1] + PIECES[0] + b"".join(PIECES[2:])) in message) == ("wrong_md5", True)
    assert told(parts, md5="abc")[1].startswith("md5: ")
    assert told([])[1].startswith("part_ids: ")
    assert sdk.uploads.complete(upload, part_ids=parts, md5=md5_of(CONTENT).upper()).status == "completed"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"bytes": 0}, "bytes"), ({"bytes": (8 << 30) + 1}, "bytes"), ({"bytes": "many"}, "bytes"),
        ({"purpose": "dancing"}, "purpose"), ({"filename": ""}, "filename"), ({"colour": "red"}, "colour"),
        ({"expires_after": {"anchor": "created_at", "seconds": 1}}, "expires_after[seconds]"),
        ({"expires_after": {"anchor": "never", "seconds": 7200}}, "expires_after.anchor"),
    ],
)  # fmt: skip
def test_an_upload_that_cannot_be_opened_names_the_field(sdk: openai.OpenAI, wish: dict[str, Any], param: str) -> None:
    good = {"bytes": 1, "filename": "x.csv", "mime_type": "text/csv", "purpose": "fine-tune"}
    with pytest.raises(openai.BadRequestError) as error:
        sdk.post("/uploads", body={**good, **wish}, cast_to=object)
    assert error.value.param == param


@pytest.mark.slow
def test_a_part_that_is_none_leaves_nothing(sdk: openai.OpenAI, tenant: Any, artifacts: Path) -> None:
    from tilth.datasets.uploading import PART_BYTES

    upload = opened(sdk)
    assert refused(lambda: sdk.uploads.parts.create(upload, data=b"")) == (
        "part_size", "A part has 1 to 67,108,864 bytes, found 0."
    )  # fmt: skip
    assert refused(lambda: sdk.uploads.parts.create(upload, data=bytes(PART_BYTES + 1)))[0] == "part_size"
    assert refused(lambda: sdk.uploads.parts.create(upload, data=bytes(PART_BYTES * 2)))[0] == "file_too_large"
    assert refused(
        lambda: sdk.post(
            f"/uploads/{upload}/parts", body={"colour": "red"}, cast_to=object, files={"x": b"y"},
            options={"headers": {"Content-Type": "multipart/form-data"}},
        )
    )[1] == "'colour' is no field of the form; the fields are data."  # fmt: skip
    assert left_behind(artifacts, tenant) == []


@pytest.mark.slow
def test_an_upload_keeps_no_more_than_its_bytes_twice_and_one_part(sdk: openai.OpenAI) -> None:
    from tilth.datasets.uploading import PART_BYTES

    upload = opened(sdk, 1)
    sent(sdk, upload, [bytes(PART_BYTES)])
    sent(sdk, upload, [b"12"])
    code, message = refused(lambda: sdk.uploads.parts.create(upload, data=b"3"))
    assert (code, "The upload of 1 bytes has 2 parts with 67,108,866 bytes already" in message) == (
        "too_many_parts", True
    )  # fmt: skip


def test_a_cancelled_upload_refuses_parts_and_its_bytes_go(sdk: openai.OpenAI, tenant: Any, artifacts: Path) -> None:
    upload = opened(sdk)
    parts = sent(sdk, upload)
    assert [sdk.uploads.cancel(upload).status for _ in range(2)] == ["cancelled", "cancelled"]
    swept(tenant, upload)
    assert left_behind(artifacts, tenant) == []
    assert refused(lambda: sdk.uploads.parts.create(upload, data=b"x"))[0] == "upload_cancelled"
    assert refused(lambda: sdk.uploads.complete(upload, part_ids=parts)) == (
        "upload_cancelled", "The upload is cancelled; create a new one."
    )  # fmt: skip


@pytest.mark.slow
def test_an_upload_expires_after_an_hour_and_the_sweep_closes_it(
    sdk: openai.OpenAI, tenant: Any, sums_db: psycopg.Connection
) -> None:
    from tilth.core.clock import frozen, now
    from tilth.datasets.sweeping import sweep

    upload = opened(sdk)
    parts = sent(sdk, upload)
    with frozen(now() + timedelta(minutes=59)):
        sweep()
    assert sdk.uploads.parts.create(upload, data=b"x").upload_id == upload
    sums_db.execute(
        "UPDATE datasets_upload SET expires_at = now() - interval '1 second' WHERE tenant_id = %s", [tenant.id]
    )
    assert refused(lambda: sdk.uploads.parts.create(upload, data=b"x"))[0] == "upload_expired"
    assert refused(lambda: sdk.uploads.complete(upload, part_ids=parts))[0] == "upload_expired"
    sweep()
    state = (
        "SELECT status, (SELECT count(*) FROM datasets_uploadpart p WHERE p.upload_id = u.id) FROM datasets_upload u"
    )
    assert sums_db.execute(f"{state} WHERE tenant_id = %s", [tenant.id]).fetchall() == [("expired", 0)]
    asked = "SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'datasets.remove_parts' AND args->>'upload' = %s"
    assert sums_db.execute(asked, [upload.removeprefix("upload-")]).fetchone() == (1,)


def test_old_parts_of_no_pending_upload_are_swept(sdk: openai.OpenAI, tenant: Any, artifacts: Path) -> None:
    from tilth.core.clock import frozen, now
    from tilth.datasets.sweeping import remove_orphans

    upload, pending = opened(sdk), opened(sdk)
    sent(sdk, upload)
    sent(sdk, pending, PIECES[:1])
    sdk.uploads.cancel(upload)
    remove_orphans(tenant.id)
    assert len(left_behind(artifacts, tenant)) == len(PIECES) + 1
    with frozen(now() + timedelta(days=2)):
        remove_orphans(tenant.id)
    assert kept(artifacts, tenant) == PIECES[:1]


def test_another_tenants_upload_looks_like_none(web: Web, sdk: openai.OpenAI, other_tenant: Any) -> None:
    with web.sdk(other_tenant) as others:
        theirs = opened(others)
        part = sent(others, theirs, PIECES[:1])
    nobodys = f"upload-{uuid7().hex}"
    asks: list[Callable[[str], Any]] = [
        lambda upload: sdk.uploads.parts.create(upload, data=b"x"),
        lambda upload: sdk.uploads.complete(upload, part_ids=part),
        lambda upload: sdk.uploads.cancel(upload),
    ]
    for ask in asks:
        seen = []
        for upload in (theirs, nobodys):
            with pytest.raises(openai.NotFoundError) as error:
                ask(upload)
            seen.append(str(error.value.body).replace(upload, "ID"))
        assert seen[0] == seen[1]
    own = opened(sdk)

    def told(id_: str) -> str:
        return refused(lambda: sdk.uploads.complete(own, part_ids=[id_]))[1].replace(id_, "ID")

    assert told(part[0]) == told(f"part-{uuid7().hex}")


def test_a_key_without_the_right_to_write_files_sends_no_part(web: Web, sdk: openai.OpenAI, tenant: Any) -> None:
    from tilth.tenants.scopes import Scope
    from tilth.tenants.services import key_create

    upload = opened(sdk)
    _, text = key_create(
        tenant=tenant.id, by=tenant.principal, name="reader", scopes=frozenset({Scope.FILES_READ})
    )  # fmt: skip
    for key, status in ((text.secret, 403), ("tilth_live_nonsense", 401), (tenant.key, 404)):
        shown = upload if status != 404 else f"upload-{uuid7().hex}"
        with begun(web, key, shown, 10**9) as connection:
            assert connection.getresponse().status == status


@contextlib.contextmanager
def begun(web: Web, key: str, upload: str, length: int) -> Iterator[http.client.HTTPConnection]:
    """The head of a part's request whose body is still to be sent."""
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=60)
    connection.putrequest("POST", f"/v1/uploads/{upload}/parts")
    connection.putheader("Authorization", f"Bearer {key}")
    connection.putheader("Content-Type", "multipart/form-data; boundary=b0undary")
    connection.putheader("Content-Length", str(length))
    connection.endheaders()
    with contextlib.closing(connection):
        yield connection


def test_a_client_that_leaves_in_the_middle_of_a_part_leaves_nothing_of_it(
    web: Web, sdk: openai.OpenAI, tenant: Any, artifacts: Path
) -> None:
    upload = opened(sdk)
    first = sent(sdk, upload, PIECES[:1])
    head = b'--b0undary\r\nContent-Disposition: form-data; name="data"; filename="upload"\r\n\r\n'
    with begun(web, tenant.key, upload, 8 << 20) as connection:
        connection.send(head + bytes(4 << 20))
        eventually(lambda: [path.suffix for path in left_behind(artifacts, tenant)].count(".part") == 1)
    eventually(lambda: len(left_behind(artifacts, tenant)) == 1)
    done = sdk.uploads.complete(upload, part_ids=[*first, *sent(sdk, upload, PIECES[1:])])
    assert done.status == "completed"


@pytest.mark.slow
def test_a_large_file_is_gone_on_with_by_another_client_while_the_web_process_stays_flat(
    web: Web, sdk: openai.OpenAI, tenant: Any, tmp_path: Path, artifacts: Path
) -> None:
    path = tmp_path / "large.csv"
    rows, digest = write_rows(path, int(os.environ.get("TILTH_TEST_UPLOAD_MIB", "256")))
    sdk.uploads.complete(warm := opened(sdk, 3), part_ids=sent(sdk, warm, [b"abc"]))
    swept(tenant, warm)
    (small,) = left_behind(artifacts, tenant)
    idle = web.memory()
    done = upload_by_two(
        sdk, path, 16 << 20, lambda: any(found.suffix == ".part" for found in left_behind(artifacts, tenant))
    )  # fmt: skip
    grown = web.memory("VmHWM") - idle
    print(f"{rows:,} rows, idle {idle / 1e6:.0f} MB, +{grown / 1e6:.1f} MB")
    assert done.file is not None
    assert (done.file.bytes, grown < 40 * 10**6) == (path.stat().st_size, True)
    swept(tenant, done.id)
    (large,) = set(left_behind(artifacts, tenant)) - {small}
    stored = sha256()
    for chunk in storage.read_chunks(str(large.relative_to(artifacts))):
        stored.update(chunk)
    assert stored.hexdigest() == digest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("crash_at", "files_then"),
    [("part.stored", 0), ("part.committed", 0), ("upload.composed", 0), ("upload.completed", 1)],
)
def test_a_web_process_killed_anywhere_is_gone_on_after_and_makes_one_file(
    web: Web, tenant: Any, artifacts: Path, sums_db: psycopg.Connection, crash_at: str, files_then: int
) -> None:
    doomed = start(TILTH_CRASH_AT=crash_at)
    try:
        with web.sdk(tenant) as sdk, doomed.sdk(tenant) as cut_off:
            upload = opened(sdk)
            if crash_at.startswith("part"):
                with pytest.raises(openai.APIConnectionError):
                    sent(cut_off, upload, PIECES[:1])
                parts = sent(sdk, upload)
            else:
                parts = sent(sdk, upload)
                with pytest.raises(openai.APIConnectionError):
                    cut_off.uploads.complete(upload, part_ids=parts)
            assert doomed.process.wait(10) == -signal.SIGKILL
            assert sums_db.execute(ROWS, [tenant.id]).fetchone() == (files_then,)
            done = sdk.uploads.complete(upload, part_ids=parts, md5=md5_of(CONTENT))
            assert done.file is not None
            assert sdk.files.content(done.file.id).read() == CONTENT
    finally:
        doomed.process.kill()
    assert sums_db.execute(ROWS, [tenant.id]).fetchone() == (1,)
    swept(tenant, upload)
    _sweep_orphans(tenant)
    assert kept(artifacts, tenant) == [CONTENT]


def _sweep_orphans(tenant: Any) -> None:
    from tilth.core.clock import frozen, now
    from tilth.datasets.sweeping import remove_orphans

    with frozen(now() + timedelta(days=2)):
        remove_orphans(tenant.id)
