"""Files that cannot be worked on fail their batch with line and reason; single lines that cannot be asked do not."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import openai
import pytest

from tests.controlplane.batches.rig import MODEL, Rig, jsonl, lines_of, request_line

OTHER = {"model": "ft:other", "inputs": [{"text": "x"}]}


def read(tmp_path: Path, content: bytes, endpoint: str = "/v1/predictions") -> dict[str, Any]:
    """The report on a file of requests, with its items."""
    from tilth.batches.items import Packer, unpacked
    from tilth.batches.requests import Requests
    from tilth.batches.states import Endpoint

    path, chunks = tmp_path / "batch.jsonl", tmp_path / "chunks"
    path.write_bytes(content)
    chunks.mkdir()
    packer = Packer(chunks)
    report = Requests(Endpoint(endpoint), packer).read(path)
    found = [unpacked((chunks / str(number)).read_bytes()) for number in range(packer.chunks)]
    return {**report, "chunks": found, "items": [item for chunk in found for item in chunk]}


WRONG: list[tuple[str, Any, str, str | None, str]] = [
    ("no JSON", b"text,label\n", "invalid_json_line", None, "name the model of the batch"),
    ("no object", [1, 2], "invalid_json_line", None, "a JSON list"),
    ("no UTF-8", b'{"custom_id": "\xff"}\n', "invalid_json_line", None, "no JSON object"),
    ("no custom_id", request_line(1, custom_id=None), "missing_required_parameter", "custom_id", "no custom_id"),
    ("a number as custom_id", request_line(1, custom_id=7), "invalid_custom_id", "custom_id", "found 7"),
    ("an empty custom_id", request_line(1, custom_id=""), "invalid_custom_id", "custom_id", "1 to 512"),
    ("a NUL in custom_id", request_line(1, custom_id="a\0"), "invalid_custom_id", "custom_id", "1 to 512"),
    ("a double custom_id", request_line(0), "duplicate_custom_id", "custom_id", "stands in line 1 already"),
    ("another method", request_line(1, method="GET"), "invalid_method", "method", "only 'POST'"),
    ("another address", request_line(1, url="/v1/embeddings"), "mismatched_url", "url", "made for '/v1/predictions'"),
    ("no address", request_line(1, url=None), "mismatched_url", "url", "url is None"),
    ("no body", request_line(1, body=None), "missing_required_parameter", "body", "no body"),
    ("no model", request_line(1, body={"inputs": []}), "missing_required_parameter", "body.model", "no model"),
    ("another model", request_line(1, body=OTHER), "mismatched_model", "body.model", "a batch is for one model"),
    ("an unknown key", request_line(1, bogus=1), "unknown_parameter", "bogus", "Unknown key 'bogus'"),
    ("a line without end", b'{"custom_id": "' + b"x" * (3 << 20) + b'"}\n', "line_too_long", None, "over 2,056 KiB"),
]


@pytest.mark.parametrize(("line", "code", "param", "words"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_a_line_that_spoils_the_file_is_named(
    tmp_path: Path, line: Any, code: str, param: str | None, words: str
) -> None:
    wrong = line if isinstance(line, bytes) else jsonl(line)
    found = read(tmp_path, jsonl(request_line(0)) + b"\n" + wrong + jsonl(request_line(9)))
    (fault,) = found["faults"]
    assert (fault["line"], fault["code"], fault["param"]) == (3, code, param)
    assert words in fault["message"]


def test_blank_lines_and_a_byte_order_mark_do_not_matter_and_lines_are_counted_as_they_stand(tmp_path: Path) -> None:
    found = read(tmp_path, b"\xef\xbb\xbf" + jsonl(request_line(1)) + b"\r\n  \n" + jsonl(request_line(2))[:-1])
    assert (found["faults"], [item.line for item in found["items"]]) == ([], [1, 4])
    assert (found["model"], found["line"]) == (MODEL, 1)


def test_a_hundred_faults_are_told_and_then_it_is_enough(tmp_path: Path) -> None:
    assert len(read(tmp_path, b"nonsense\n" * 5000)["faults"]) == 100


def test_a_file_with_more_requests_than_allowed_is_refused_at_the_first_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tilth.batches import requests

    monkeypatch.setattr(requests, "MOST_LINES", 3)
    (fault,) = read(tmp_path, lines_of(9))["faults"]
    assert (fault["code"], fault["line"]) == ("too_many_requests", 4)


def test_a_body_that_the_endpoint_would_refuse_is_its_own_lines_error_in_the_same_words(tmp_path: Path) -> None:
    bodies = [{"model": MODEL}, {"model": MODEL, "inputs": []}, {"model": MODEL, "inputs": ["text"]}]
    found = read(tmp_path, jsonl(*(request_line(n, body=body) for n, body in enumerate(bodies))))
    assert found["faults"] == []
    assert [item.error["param"] for item in found["items"]] == ["inputs", "inputs", "inputs.0"]
    assert "Send {" in found["items"][0].error["message"]


@pytest.mark.parametrize("levels", [33, 252, 255])
def test_a_body_nested_too_deep_is_its_own_lines_error(tmp_path: Path, levels: int) -> None:
    """From 251 levels on JSON that was read could not be written again."""
    value = '{"text":' * (levels - 2) + '"x"' + "}" * (levels - 2)
    line = jsonl(request_line(0, body={"model": MODEL, "inputs": ["deep"]})).replace(b'"deep"', value.encode())
    found = read(tmp_path, line + jsonl(request_line(1)))
    assert found["faults"] == []
    first, second = found["items"]
    assert (first.error["param"], "deeper than 32" in first.error["message"]) == ("body", True)
    assert second.error is None


def test_chunks_have_so_many_rows_and_bytes_and_no_line_is_torn(tmp_path: Path) -> None:
    wide = {"model": MODEL, "inputs": [{"text": "x"}] * 200}
    long = {"model": MODEL, "inputs": [{"text": "x" * 900_000}]}
    lines = [request_line(number, body=body) for number, body in enumerate([wide, wide, long, long])]
    found = read(tmp_path, jsonl(*lines))
    assert [[item.line for item in chunk] for chunk in found["chunks"]] == [[1], [2, 3], [4]]
    most = {"model": MODEL, "inputs": [{"text": "x"}] * 1024}
    (tmp_path / "more").mkdir()
    assert len(read(tmp_path / "more", jsonl(request_line(0, body=most)))["chunks"]) == 1


def failed(rig: Rig, tenant: Any, content: bytes, **order: Any) -> list[dict[str, Any]]:
    """The errors of a batch that fails when it is read."""
    row = rig.batch(tenant, rig.begun(tenant, content, **order))
    assert (row.state, row.output_file_id, row.error_file_id) == ("failed", None, None)
    assert rig.plane.answers.asked == []
    assert rig.events(tenant) == []
    return [dict(error) for error in row.errors]


@pytest.mark.slow
def test_a_batch_with_a_wrong_line_fails_in_openais_words(
    rig: Rig, served: Any, sdk: Callable[[Any], openai.OpenAI]
) -> None:
    client = sdk(served)
    content = jsonl(request_line(0), request_line(0), request_line(1, url="/v1/x"))
    file = client.files.create(file=("batch.jsonl", io.BytesIO(content)), purpose="batch").id
    made: Any = client.batches.create(
        input_file_id=file, endpoint="/v1/predictions", completion_window="24h"  # type: ignore[arg-type]  # ours
    )  # fmt: skip
    rig.reader.read(served.id, UUID(made.id.removeprefix("batch-")))
    done = client.batches.retrieve(made.id)
    assert (done.status, done.errors is not None) == ("failed", True)
    assert done.errors is not None
    told = [(error.code, error.line, error.param) for error in done.errors.data or []]
    assert told == [("duplicate_custom_id", 2, "custom_id"), ("mismatched_url", 3, "url")]


@pytest.mark.slow
def test_an_empty_file_fails(rig: Rig, served: Any) -> None:
    (error,) = failed(rig, served, b"\n\n")
    assert error["code"] == "empty_file"


def test_a_file_that_is_too_large_fails_before_it_is_read(
    rig: Rig, served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tilth.batches import reader

    monkeypatch.setattr(reader, "MOST_BYTES", 100)
    (error,) = failed(rig, served, lines_of(3))
    assert (error["code"], error["param"]) == ("file_too_large", "input_file_id")


def test_a_file_that_is_deleted_before_it_is_read_fails_its_batch(rig: Rig, served: Any) -> None:
    from tilth.datasets.services import file_delete

    file = rig.file(served, lines_of(1))
    batch = rig.create(served, input_file=file)
    file_delete(tenant=served.id, by=served.principal, file=file)
    rig.reader.read(served.id, batch)
    (error,) = rig.batch(served, batch).errors
    assert "No such file" in error["message"]


@pytest.mark.slow
def test_another_organisations_model_is_as_unknown_as_nobodys(rig: Rig, served: Any, other_tenant: Any) -> None:
    body = {"model": "ft:nobodys", "inputs": [{"text": "x"}]}
    (theirs,) = failed(rig, other_tenant, lines_of(2))
    (nobodys,) = failed(rig, other_tenant, jsonl(request_line(1, body=body)))
    assert (theirs["code"], theirs["line"], theirs["param"]) == ("model_not_found", 1, "body.model")
    assert theirs["message"].replace(MODEL, "X") == nobodys["message"].replace("ft:nobodys", "X")


def test_what_the_request_itself_says_wrong_is_a_400(rig: Rig, served: Any) -> None:
    def asked(**changes: Any) -> tuple[int, str]:
        body = {
            "input_file_id": f"file-{rig.file(served, lines_of(1)).hex}", "endpoint": "/v1/predictions",
            "completion_window": "24h", **changes,
        }  # fmt: skip
        reply = served.client.post("/v1/batches", json.dumps(body), content_type="application/json")
        return reply.status_code, str(reply.json().get("error", {}).get("message", ""))

    assert asked() == (200, "")
    wrong = rig.file(served, lines_of(1), purpose="fine-tune").hex
    assert asked(input_file_id=f"file-{wrong}") == (400, f"file-{wrong} has purpose 'fine-tune'; upload it as 'batch'.")
    assert asked(endpoint="/v1/chat/completions")[1].startswith("A batch asks /v1/predictions or /v1/embeddings; found")
    assert asked(completion_window="1h")[1] == "The only completion window is '24h'; found '1h'."
    assert asked(model=MODEL, endpoint="/v1/embeddings")[1].startswith("Plain rows are for /v1/predictions")
    assert asked(columns={"text": "x"})[1].startswith("columns says how plain rows are read")
    assert asked(model="ft:nobodys")[0] == 404
    assert asked(bogus=1)[1].startswith("Unknown field 'bogus'")


def test_a_key_that_may_not_predict_makes_no_batch(rig: Rig, served: Any) -> None:
    from tilth.tenants.scopes import Scope
    from tilth.tenants.services import key_create

    def status(scopes: set[Scope], method: str) -> int:
        _, text = key_create(tenant=served.id, by=served.principal, name="x", scopes=frozenset(scopes))
        body = {"input_file_id": f"file-{rig.file(served, lines_of(1)).hex}", "endpoint": "/v1/predictions"}
        reply = served.client.generic(
            method, "/v1/batches", json.dumps({**body, "completion_window": "24h"}), content_type="application/json",
            headers={"Authorization": f"Bearer {text.secret}"},
        )  # fmt: skip
        return int(reply.status_code)

    assert status({Scope.JOBS_WRITE, Scope.PREDICT}, "POST") == 200
    assert status({Scope.JOBS_WRITE}, "POST") == 403
    assert status({Scope.JOBS_READ, Scope.PREDICT}, "POST") == 403
    assert (status({Scope.JOBS_READ}, "GET"), status({Scope.PREDICT}, "GET")) == (200, 403)


@pytest.mark.slow
def test_a_table_without_the_models_columns_fails_and_says_which_there_are(rig: Rig, lender: Any) -> None:
    (error,) = failed(rig, lender, b"shoe,hat\n1,2\n", model="ft:credit", filename="wrong.csv")
    assert error["code"] == "missing_role"
    assert "none of the columns that are learned from is there, which are 'amount', 'branch'" in error["message"]


@pytest.mark.slow
def test_rows_are_read_from_parquet_and_json_lines_as_from_csv(rig: Rig, lender: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    with duckdb.connect() as memory:
        memory.execute(f"COPY (SELECT 1200 AS amount, 'north' AS branch) TO '{path}' (FORMAT parquet)")
    packed = rig.done(lender, path.read_bytes(), model="ft:credit", filename="rows.parquet")
    lined = rig.done(lender, jsonl({"branch": "north", "amount": 1200}), model="ft:credit")
    assert rig.plane.answers.answered == [{"features": {"amount": "1200", "branch": "north"}}] * 2
    assert [line["line"] for row in (packed, lined) for line in rig.output(lender, row)] == [1, 1]


@pytest.mark.slow
def test_the_text_of_plain_rows_is_found_by_the_name_the_customer_gives(rig: Rig, lender: Any) -> None:
    from tests.controlplane.batches.rig import deploy_learned

    columns = {"text": "utterance", "label": "intent"}
    deploy_learned(rig.db, lender, MODEL, "support_chat", columns, {})
    table = b"said,utterance,intent\nhello there,good morning,x\n"
    rig.done(lender, table, model=MODEL, filename="a.csv")
    rig.done(lender, table, model=MODEL, columns={"text": "said"}, filename="b.csv")
    assert rig.plane.answers.answered == [{"text": "good morning"}, {"text": "hello there"}]
    (error,) = failed_after(rig, lender, table, model=MODEL, columns={"text": "nothing"})
    assert error["code"] == "unknown_column"


def failed_after(rig: Rig, tenant: Any, content: bytes, **order: Any) -> list[dict[str, Any]]:
    row = rig.batch(tenant, rig.begun(tenant, content, **order))
    assert row.state == "failed"
    return list(row.errors)


@pytest.mark.slow
def test_a_row_that_the_model_cannot_read_fails_alone_and_is_not_billed(rig: Rig, served: Any) -> None:
    bad = {3, 40, 255}
    rig.plane.answers.refuses = lambda row: "this one is odd" if int(row["text"].split()[1]) in bad else ""
    row = rig.done(served, lines_of(300))
    assert (row.state, row.total, row.completed, row.failed) == ("completed", 300, 297, 3)
    errors = rig.errors(served, row)
    assert [line["custom_id"] for line in errors] == ["request-3", "request-40", "request-255"]
    told = errors[0]["response"]
    assert (told["status_code"], told["body"]["error"]["message"], errors[0]["error"]) == (400, "this one is odd", None)
    assert [quantity for _, _, quantity in rig.events(served)] == [7 * 253, 7 * 44]


@pytest.mark.slow
def test_a_request_with_several_rows_is_answered_whole_or_not_at_all(rig: Rig, served: Any) -> None:
    rig.plane.answers.refuses = lambda row: "odd" if row["text"] == "bad" else ""
    bodies = [["a", "bad", "b"], ["c", "d"]]
    lines = [
        request_line(n, body={"model": MODEL, "inputs": [{"text": text} for text in texts]})
        for n, texts in enumerate(bodies)
    ]
    row = rig.done(served, jsonl(*lines))
    assert [len(line["response"]["body"]["data"]) for line in rig.output(served, row)] == [2]
    assert [line["custom_id"] for line in rig.errors(served, row)] == ["request-0"]
    assert [quantity for _, _, quantity in rig.events(served)] == [14]


@pytest.mark.slow
def test_a_model_that_is_deleted_meanwhile_fails_the_lines_that_are_left(rig: Rig, served: Any) -> None:
    batch = rig.begun(served, lines_of(300))
    rig.chunk(served, batch)
    rig.db.execute("UPDATE serving_deployment SET deleted_at = now() WHERE tenant_id = %s", [served.id])
    rig.finish(served, batch)
    row = rig.batch(served, batch)
    assert (row.state, row.completed, row.failed) == ("completed", 256, 44)
    assert {line["response"]["status_code"] for line in rig.errors(served, row)} == {404}
    assert len(rig.events(served)) == 1


@pytest.mark.slow
def test_a_name_that_answers_with_another_model_meanwhile_answers_no_more_lines(rig: Rig, served: Any) -> None:
    batch = rig.begun(served, lines_of(300))
    rig.chunk(served, batch)
    rig.db.execute("UPDATE registry_model SET digest = 'sha256:other' WHERE tenant_id = %s", [served.id])
    rig.finish(served, batch)
    row = rig.batch(served, batch)
    codes = {line["response"]["body"]["error"]["code"] for line in rig.errors(served, row)}
    assert (row.completed, codes) == (256, {"model_changed"})
