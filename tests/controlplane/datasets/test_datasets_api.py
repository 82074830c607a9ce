"""The management API: reports for a mapping, versions asked for and frozen by the worker, previews, problems as CSV."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
import pytest

GOOD = b"was;wozu\n" + b"".join(f"a message of number {n};{'ab'[n % 2]}\n".encode() for n in range(60))
StoredFile = Callable[..., Any]


def public(file: Any) -> str:
    return f"file-{file.id.hex}"


def run(tenant: Any, check: dict[str, Any]) -> None:
    """As the worker does."""
    from tilth.datasets.checking import check_run

    check_run(tenant=tenant.id, check=UUID(check["id"].removeprefix("check-")))


@pytest.mark.slow
def test_a_report_for_a_vertical_is_pending_then_shows_what_all_rows_together_show(
    tenant: Any, stored_file: StoredFile, sums_db: psycopg.Connection
) -> None:
    file = stored_file(tenant, GOOD + b"a message of number 0;a\n")
    path = f"/api/files/{public(file)}/report"
    query = {"vertical": "support_chat", "columns": '{"label": "wozu"}'}
    check = tenant.client.get(path, query).json()["check"]
    assert check["state"] == "pending"
    assert tenant.client.get(path, query).json()["check"]["id"] == check["id"]
    queued = sums_db.execute("SELECT task_name FROM procrastinate_jobs WHERE args->>'check' = %s", [check["id"][6:]])
    assert queued.fetchall() == [("datasets.run_check",)]
    for _ in range(2):
        run(tenant, check)
    report = tenant.client.get(path, query).json()["check"]["report"]
    assert [(match["role"], match["column"]) for match in report["columns"]] == [("label", "wozu"), ("text", "was")]
    assert (report["labels"], report["warnings"]["by_kind"]) == ({"a": 31, "b": 30}, {"duplicate": 1})


@pytest.mark.slow
def test_a_version_is_asked_for_frozen_by_the_worker_and_shown_with_a_preview(
    tenant: Any, other_tenant: Any, stored_file: StoredFile
) -> None:
    body = {"vertical": "support_chat", "training_file": public(stored_file(tenant, GOOD)), "seed": 7}
    asked = tenant.client.post("/api/datasets", body, content_type="application/json")
    assert (asked.status_code, asked.json()["state"]) == (202, "pending")
    run(tenant, asked.json())
    done = tenant.client.post("/api/datasets", body, content_type="application/json")
    assert (done.status_code, done.json()["state"], done.json()["id"]) == (200, "passed", asked.json()["id"])
    shown = tenant.client.get(f"/api/datasets/{done.json()['dataset']}").json()
    assert (shown["rows"], shown["splits"]) == (60, {"train": 48, "validation": 6, "test": 6})
    assert shown["columns"] == {"text": "was", "label": "wozu"}
    assert len(shown["report"]["preview"]) == 15
    assert [version["id"] for version in tenant.client.get("/api/datasets").json()["data"]] == [shown["id"]]
    for path in (f"/api/datasets/{shown['id']}", f"/api/checks/{asked.json()['id']}"):
        assert other_tenant.client.get(path).status_code == 404


@pytest.mark.slow
def test_a_refused_version_says_line_column_value_and_cure(tenant: Any, stored_file: StoredFile) -> None:
    body = {"vertical": "support_chat", "training_file": public(stored_file(tenant, GOOD + b" ;a\n"))}
    check = tenant.client.post("/api/datasets", body, content_type="application/json").json()
    run(tenant, check)
    error = tenant.client.get(f"/api/checks/{check['id']}").json()["error"]
    assert (error["code"], error["param"]) == ("bad_rows", "training_file")
    (problem,) = error["problems"]["first"]
    assert (problem["line"], problem["column"], problem["cure"]) == (62, "was", "fill it in or remove the row")


def test_an_unknown_vertical_file_or_field_is_named(tenant: Any, other_tenant: Any, stored_file: StoredFile) -> None:
    def post(**body: Any) -> tuple[int, str | None]:
        answer = tenant.client.post("/api/datasets", body, content_type="application/json")
        return answer.status_code, answer.json()["error"]["param"]

    mine, theirs = public(stored_file(tenant, GOOD)), public(stored_file(other_tenant, GOOD))
    assert post(vertical="astrology", training_file=mine) == (400, "vertical")
    assert post(vertical="support_chat", training_file=mine, columms={}) == (400, "columms")
    for unknown in (theirs, f"file-{'0' * 32}"):
        assert post(vertical="support_chat", training_file=mine, test_file=unknown) == (404, "test_file")


def test_problems_come_as_csv_for_a_spreadsheet(tenant: Any, stored_file: StoredFile) -> None:
    from tilth.datasets.services import file_check

    file = stored_file(tenant, GOOD + b"=cmd();b;c\n", filename="=rows.csv")
    file_check(tenant=tenant.id, file=file.id)
    text = tenant.client.get(f"/api/files/{public(file)}/problems.csv").content.decode()
    assert text.splitlines()[1].startswith('\'=rows.csv,62,,"""=cmd();b;c""",the row has 3 cells')


def test_a_list_of_files_takes_as_many_queries_however_many_files(tenant: Any, stored_file: StoredFile) -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert tenant.client.get("/v1/files").status_code == 200
        return len(captured)

    stored_file(tenant, GOOD)
    queries()  # the first call of a minute also writes that its key was used
    few = queries()
    for _ in range(5):
        stored_file(tenant, GOOD)
    assert queries() == few
