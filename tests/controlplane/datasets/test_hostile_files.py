"""Files made to do harm: each is a 4xx or a file in error with a clear word; the child dies alone, nothing is left."""

import gzip
import http.client
import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tilth.core.scope import tenant_scope
from tilth.core.storage import scratch
from tilth.datasets import services
from tilth.datasets.sandbox import MIB, Limits

from tests.controlplane.web_rig import running_web

pytestmark = pytest.mark.slow

BOUNDARY = "b0undary"
HEAD = b"text,label\n"
ROWS = b"".join(f"message number {n},{'ab'[n % 2]}\n".encode() for n in range(40))


def zipped(name: str, size: int) -> bytes:
    """An archive that unpacks to a thousand times its size."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"\0" * size)
    return made.getvalue()


def png(width: int, height: int) -> bytes:
    """A picture that claims more pixels than it has bytes."""
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + size + struct.pack(">I", zlib.crc32(b"IHDR" + size))


class Runs:
    """What a pickle would do if anybody opened it."""

    def __reduce__(self) -> Any:
        return eval, ("__import__('os').abort()",)


ERRORS: dict[str, tuple[Callable[[], bytes], str]] = {
    "an xlsx": (lambda: zipped("xl/workbook.xml", 1000), "Excel"),
    "a zip bomb": (lambda: zipped("rows.csv", 64 * MIB), "zip"),
    "a gzip bomb": (lambda: gzip.compress(b"\0" * (64 * MIB)), "gzip"),
    "a PDF": (lambda: b"%PDF-1.7\n" + b"x" * 1000, "PDF"),
    "UTF-16": (lambda: (HEAD + ROWS).decode().encode("utf-16"), "UTF-16"),
    "nothing": (lambda: b"\n", "empty"),
    "only a header": (lambda: HEAD, "no rows"),
    "one quote and 100 MiB": (lambda: HEAD + b'"' + (b"x" * 1023 + b"\n") * (100 << 10), "quote"),
    "one line of 33 MiB": (lambda: HEAD + b"x" * (33 * MIB), "longer than"),
    "old Mac line ends": (lambda: (HEAD + ROWS).replace(b"\n", b"\r"), "CR alone"),
    "two columns of one name": (lambda: b"text,text\n" + ROWS, "named twice"),
    "one JSON list": (lambda: json.dumps([{"text": "x"}] * 50).encode(), "JSON list"),
    "a chat": (lambda: b'{"messages": [{"role": "user", "content": "x"}]}\n' * 40, "chat format"),
}
"""Each with a word of what is told."""

ROWS_IN_ERROR: dict[str, Callable[[], bytes]] = {
    "NUL bytes": lambda: HEAD + b"a\0b,x\n" + ROWS,
    "latin-1": lambda: HEAD + "Größe,x\n".encode("latin-1") + ROWS,
    "a cell of 2 MiB": lambda: HEAD + b"x" * (2 * MIB) + b",x\n" + ROWS,
    "ragged rows": lambda: HEAD + b"x\n" + b"x,y,z\n" + ROWS,
    "mixed line ends": lambda: HEAD + b'"a\rb",x\r\n' + b"x,y,z\r\n" + ROWS,
    "deep JSON": lambda: b'{"text": "a", "label": "b"}\n' * 20 + b"[" * 100_000 + b"\n",
    "a key twice": lambda: b'{"text": "a", "label": "b"}\n' * 20 + b'{"text": "a", "text": "b"}\n',
    "a huge number": lambda: b'{"text": "a", "label": "b"}\n' * 20 + b'{"text": ' + b"9" * 5000 + b"}\n",
    "half a surrogate": lambda: b'{"text": "a", "label": "b"}\n' * 20 + b'{"text": "\\ud800", "label": "b"}\n',
    "a NUL in JSON": lambda: b'{"text": "a", "label": "b"}\n' * 20 + b'{"text": "\\u0000", "label": "b"}\n',
    "NaN": lambda: b'{"text": "a", "label": "b"}\n' * 20 + b'{"text": NaN, "label": "b"}\n',
}
"""Read on: the row is named, the others stand."""

ANYTHING: dict[str, Callable[[], bytes]] = {
    "a pickle": lambda: pickle.dumps(Runs()) + b"\n" + ROWS,
    "an ELF": lambda: b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 100,
    "a PNG of a terapixel": lambda: png(1 << 20, 1 << 20) + b"\n1,2\n",
    "HTML": lambda: b"<html><script>alert(1)</script>,x\n" + ROWS,
    "a hundred thousand columns": lambda: b",".join(b"c%d" % n for n in range(100_000)) + b"\n" + b"," * 99_999 + b"\n",
    "a hundred thousand keys": lambda: json.dumps({f"k{n}": "x" for n in range(100_000)}).encode() + b"\n",
    "a cell of a million characters": lambda: HEAD + b"x" * 1_000_000 + b",x\n" + ROWS,
    "a byte order mark and semicolons": lambda: b"\xef\xbb\xbf" + (HEAD + ROWS).replace(b",", b";"),
    "formulas": lambda: HEAD + b"=cmd|' /C calc'!A0,@SUM(1)\n" + ROWS,
    "a fork of quotes": lambda: HEAD + b'""""""""""' * 10_000 + b",x\n" + ROWS,
    "random bytes": lambda: bytes((n * 7919) % 251 for n in range(50_000)),
    "a text with every control character": lambda: HEAD + bytes(range(1, 32)).replace(b"\n", b"").replace(b"\r", b"")
    + b",x\n" + ROWS,
}  # fmt: skip
"""Whatever comes of them, it is an answer."""


@pytest.fixture
def check(tenant: Any, stored_file: Callable[..., Any]) -> Callable[[bytes], Any]:
    """Uploads and checks; the file as it stands then. A child of 30 s and 1 GiB."""

    def checked(content: bytes, name: str = "rows.csv") -> Any:
        from tilth.datasets.models import File

        file = stored_file(tenant, content, name)
        services.file_check(tenant=tenant.id, file=file.id)
        with tenant_scope(tenant.id):
            return File.objects.get(id=file.id)

    return checked


@pytest.fixture(autouse=True)
def _short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilth.datasets.sandbox.Limits", lambda: Limits(memory_bytes=1500 * MIB, cpu_s=60, wall_s=120))


@pytest.fixture(autouse=True)
def _nothing_is_left(database: Any) -> Iterator[None]:
    before = sorted(scratch().iterdir())
    yield
    assert sorted(scratch().iterdir()) == before


@pytest.mark.parametrize("what", ERRORS)
def test_what_is_no_table_is_in_error_with_a_word(check: Callable[..., Any], what: str) -> None:
    make, word = ERRORS[what]
    file = check(make(), "rows.csv")
    assert (file.status, word in file.status_details) == ("error", True), file.status_details
    assert len(file.status_details) < 1000


@pytest.mark.parametrize("what", ROWS_IN_ERROR)
def test_a_row_that_does_harm_is_named_and_the_others_stand(check: Callable[..., Any], what: str) -> None:
    file = check(ROWS_IN_ERROR[what]())
    assert file.status == "processed"
    assert 1 <= file.report["problems"]["total"] <= 2
    assert file.report["rows"] >= 20


@pytest.mark.parametrize("what", ANYTHING)
def test_any_other_file_gets_an_answer_and_its_page_is_safe(check: Callable[..., Any], tenant: Any, what: str) -> None:
    file = check(ANYTHING[what](), "<script>alert(2)</script>.csv")
    assert file.status in ("processed", "error")
    assert "takes more than" not in file.status_details, "small files do not keep the worker busy for long"
    page = tenant.browser.get(f"/files/file-{file.id.hex}")
    assert page.status_code == 200
    assert "<script>alert" not in page.content.decode()
    assert len(page.content) < 4 * MIB


def test_a_child_that_dies_of_its_limits_dies_alone_and_the_next_file_is_checked(
    check: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = HEAD + ROWS * 20_000
    for short in (Limits(memory_bytes=MIB), Limits(cpu_s=1), Limits(wall_s=0)):
        monkeypatch.setattr("tilth.datasets.sandbox.Limits", lambda short=short: short)
        file = check(content)
        assert (file.status, "takes more than" in file.status_details) == ("error", True), file.status_details
    monkeypatch.setattr("tilth.datasets.sandbox.Limits", Limits)
    assert check(HEAD + ROWS).status == "processed"


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://evil")', "=cmd|' /C calc'!A0"]


def test_a_cell_that_a_spreadsheet_would_run_is_escaped_on_its_way_out(check: Callable[..., Any], tenant: Any) -> None:
    import csv

    cells = [json.dumps({"text": formula, "label": {"a": 1}}) for formula in FORMULAS]
    keyed = [json.dumps({formula: [formula], "text": [formula]}) for formula in FORMULAS]
    good = [json.dumps({"text": f"x{n}", "label": "ab"[n % 2]}) for n in range(20)]
    file = check("\n".join([*cells, *keyed, *good, "=1+1", '"=2"']).encode(), "=1+1.jsonl")
    sheet = tenant.client.get(f"/api/files/file-{file.id.hex}/problems.csv").content.decode()
    found = [cell for row in csv.reader(io.StringIO(sheet, newline="")) for cell in row]
    assert len(found) > 12
    assert [cell for cell in found if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))] == []


# Uploads: the form around the file.


@pytest.fixture(scope="module")
def url(database: Any) -> Iterator[str]:
    with running_web() as found:
        yield found


def part(head: str, content: bytes) -> bytes:
    return f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + content + b"\r\n"


PURPOSE = part('Content-Disposition: form-data; name="purpose"', b"fine-tune")
END = f"--{BOUNDARY}--\r\n".encode()
KIND = f"multipart/form-data; boundary={BOUNDARY}"


def field_part(name: str, content: bytes) -> bytes:
    return part(f'Content-Disposition: form-data; name="{name}"', content)


def file_part(name: str = "rows.csv", content: bytes = HEAD + ROWS, more: str = "") -> bytes:
    return part(f'Content-Disposition: form-data; name="file"; filename="{name}"{more}', content)


def post(url: str, tenant: Any, body: bytes, kind: str = KIND) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    try:
        head = {"Authorization": f"Bearer {tenant.key}", "Content-Type": kind, "Content-Length": str(len(body))}
        connection.putrequest("POST", "/v1/files")
        for name, value in head.items():
            connection.putheader(name, value.encode("latin-1"))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


NAMES = {
    "../../../etc/passwd": "passwd",
    "..\\\\..\\\\windows\\\\win.ini": "win.ini",
    "a\tb.csv": "ab.csv",
    "gpj.\u202ecsv": "gpj.csv",
    "x" * 3000 + ".csv": ("x" * 3000 + ".csv")[-255:],
    "<script>alert(1)</script>.csv": "script>.csv",
    "..": "..",
    "": "file",
    "\u0000a.csv": None,
    "'; DROP TABLE datasets_file; --.csv": "'; DROP TABLE datasets_file; --.csv",
    "é漢字.csv": "é漢字.csv",
    "=1+1.csv": "=1+1.csv",
}
"""What a file is called, and what is kept of it; None: whatever, or a 4xx."""


@pytest.mark.parametrize("name", NAMES)
def test_a_files_name_is_a_name_and_no_way_anywhere(url: str, tenant: Any, artifacts: Path, name: str) -> None:
    status, answer = post(url, tenant, PURPOSE + file_part(name) + END)
    if NAMES[name] is None and status == 400:
        return
    assert status == 200, answer
    if NAMES[name] is not None:
        assert answer["filename"] == NAMES[name]
    kept = [path for path in (artifacts / "tenants" / tenant.id.hex).rglob("*") if path.is_file()]
    assert [path.name for path in kept] == ["raw"], "the bytes lie under a name of ours"
    for address in (f"/files/{answer['id']}", "/files", "/jobs"):
        page = tenant.browser.get(address)
        assert (page.status_code, "<script>alert" in page.content.decode()) == (200, False)
    content = tenant.client.get(f"/v1/files/{answer['id']}/content")
    assert content["Content-Type"] == "application/octet-stream"
    assert content["X-Content-Type-Options"] == "nosniff"
    assert content["Content-Disposition"] == f'attachment; filename="{answer["id"]}"'


BROKEN: dict[str, tuple[bytes, str]] = {
    "no boundary": (PURPOSE + file_part() + END, "multipart/form-data"),
    "an empty boundary": (PURPOSE + file_part() + END, "multipart/form-data; boundary="),
    "another boundary": (PURPOSE + file_part() + END, "multipart/form-data; boundary=other"),
    "an endless boundary": (PURPOSE + file_part() + END, "multipart/form-data; boundary=" + "x" * 5000),
    "a boundary of odd bytes": (PURPOSE + file_part() + END, "multipart/form-data; boundary=\xff\xfe"),
    "no kind": (PURPOSE + file_part() + END, ""),
    "JSON": (b'{"file": "x"}', "application/json"),
    "a form of another kind": (b"file=x&purpose=fine-tune", "application/x-www-form-urlencoded"),
    "nothing": (b"", KIND),
    "only the end": (END, KIND),
    "no end": (PURPOSE + file_part(), KIND),
    "cut in a header": (PURPOSE + file_part()[:60], KIND),
    "two files": (PURPOSE + file_part() + file_part() + END, KIND),
    "two purposes": (PURPOSE + PURPOSE + file_part() + END, KIND),
    "a part without a name": (PURPOSE + part("Content-Disposition: form-data", b"x") + file_part() + END, KIND),
    "a part without a header": (PURPOSE + f"--{BOUNDARY}\r\n\r\nx\r\n".encode() + file_part() + END, KIND),
    "an unknown field": (PURPOSE + field_part("x", b"x") + file_part() + END, KIND),
    "a file that is none": (PURPOSE + field_part("file", b"x") + END, KIND),
    "no file": (PURPOSE + END, KIND),
    "no purpose": (file_part() + END, KIND),
    "a purpose without end": (field_part("purpose", b"x" * 100_000) + END, KIND),
    "a purpose with a NUL": (field_part("purpose", b"fine\0") + file_part() + END, KIND),
    "a header without end": (f"--{BOUNDARY}\r\nX: ".encode() + b"x" * 1_000_000, KIND),
    "a thousand headers": (PURPOSE + part("\r\n".join(f"X-{n}: y" for n in range(1000)), b"x") + END, KIND),
    "a hundred thousand parts": (field_part("x", b"") * 100_000 + END, KIND),
    "a header that is none": (f"--{BOUNDARY}\r\n\xff\xfe\r\n\r\nx\r\n".encode("latin-1") + END, KIND),
    "an anchor of another kind": (
        PURPOSE + field_part("expires_after[anchor]", b"birth") + file_part() + END, KIND
    ),
    "a life that is a word": (
        PURPOSE + field_part("expires_after[seconds]", b"long") + file_part() + END, KIND
    ),
    "a life without end": (
        PURPOSE + field_part("expires_after[seconds]", b"9" * 4000) + file_part() + END,
        KIND,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_form_is_a_400_with_a_word_and_leaves_nothing(
    url: str, tenant: Any, artifacts: Path, what: str
) -> None:
    status, answer = post(url, tenant, *BROKEN[what])
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
    assert 10 < len(answer["error"]["message"]) < 6000
    folder = artifacts / "tenants" / tenant.id.hex
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    assert tenant.client.get("/v1/files").json()["data"] == []


def test_a_boundary_inside_the_data_ends_nothing_unless_it_stands_on_its_line(url: str, tenant: Any) -> None:
    content = HEAD + f"a --{BOUNDARY} b,x\n".encode() + ROWS
    status, answer = post(url, tenant, PURPOSE + file_part(content=content) + END)
    assert (status, answer["bytes"]) == (200, len(content))


@pytest.mark.parametrize("kind", ["image/png", "application/x-python-pickle", "text/html", "x" * 2000])
def test_what_a_client_says_of_its_files_kind_is_not_believed(url: str, tenant: Any, kind: str) -> None:
    status, answer = post(url, tenant, PURPOSE + file_part(more=f"\r\nContent-Type: {kind}") + END)
    assert status == 200
    assert tenant.client.get(f"/v1/files/{answer['id']}/content")["Content-Type"] == "application/octet-stream"
