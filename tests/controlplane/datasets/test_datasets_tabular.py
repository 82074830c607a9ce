"""Tables of features: what a cell may be, what is frozen, how files go together, and the API's ``kinds``."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import pytest
from tilth.contract.vertical import FieldKind, Schema, SchemaField

from tilth.core.errors import Invalid  # isort: skip

Frozen = Callable[..., dict[str, Any]]
StoredFile = Callable[..., Any]
HEADER = "nr,income,home,default"
PAID = SchemaField(role="outcome", kind=FieldKind.LABEL, title="Outcome", aliases=("default",))
LENDING = Schema(fields=(PAID, SchemaField(role="features", kind=FieldKind.COLUMNS, title="Features")))


def loans(count: int, first: int = 0) -> list[tuple[str, ...]]:
    """All different."""
    return [
        (f"{n}", f"{1000 + n * 37 % 997}.5", ["own", "rent"][n % 2], "yn"[n // 2 % 2])
        for n in range(first, first + count)
    ]


def table(rows: Sequence[tuple[str, ...]], header: str = HEADER) -> bytes:
    return "\n".join([header, *map(",".join, rows), ""]).encode()


def refused(frozen: Frozen, *contents: bytes, **facts: Any) -> Invalid:
    with pytest.raises(Invalid) as caught:
        frozen(*contents, **{"schema": LENDING, **facts})
    return caught.value


def metadata(path: Path) -> dict[str, Any]:
    with duckdb.connect() as memory:
        found = memory.execute("SELECT decode(key), decode(value) FROM parquet_kv_metadata(?)", [str(path)]).fetchall()
    return {key: json.loads(value) for key, value in found}


def test_features_are_frozen_as_json_under_their_role_and_the_file_says_their_kinds(
    frozen: Frozen, tmp_path: Path
) -> None:
    strange = 'it\'s "quoted", ünïcödé'
    rows = [{"nr": n, "in'come": n * 7 % 30, strange: f" {'ab'[n % 2]} ", "default": n % 3 % 2} for n in range(30)]
    rows[4]["in'come"] = None
    report = frozen("".join(json.dumps(row) + "\n" for row in rows).encode(), schema=LENDING)
    by_line = {row["line"]: row for row in report["all"]}
    assert set(by_line[1]) == {"line", "split", "group", "outcome", "features"}
    assert json.loads(by_line[2]["features"]) == {"in'come": "7", strange: "b"}
    assert json.loads(by_line[5]["features"]) == {"in'come": None, strange: "a"}
    assert metadata(tmp_path / "rows.parquet") == {"kinds": {"in'come": "number", strange: "category"}}
    assert report["preview"][0]["features"] == json.loads(by_line[report["preview"][0]["line"]]["features"])
    assert report["features"][:2] == [
        {"column": "nr", "kind": "ignore", "reason": "no value twice: an id"},
        {"column": "in'come", "kind": "number", "reason": "numbers only"},
    ]


def test_a_schema_without_free_columns_leaves_no_kinds(frozen: Frozen, tmp_path: Path) -> None:
    report = frozen(table([(f"text number {n}", "ab"[n % 2]) for n in range(20)], "text,label"))
    assert report["features"] == []
    assert metadata(tmp_path / "rows.parquet") == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cells", "kinds", "kind", "column", "value"),
    [
        (("100", "much", "own", "y"), {}, "not_a_number", "income", '"much"'),
        (("100", "inf", "own", "y"), {}, "not_a_number", "income", '"inf"'),
        (("100", "1.5", "own", "y"), {"home": "number"}, "not_a_number", "home", '"own"'),
        (("100", "1.5", "own", "y"), {"home": "date"}, "not_a_date", "home", '"own"'),
    ],
)
def test_a_cell_that_is_not_of_its_columns_kind_is_named(
    frozen: Frozen, cells: tuple[str, ...], kinds: dict[str, str], kind: str, column: str, value: str
) -> None:
    good = [(nr, income, "" if kinds else home, paid) for nr, income, home, paid in loans(100)]
    error = refused(frozen, table([*good, cells]), kinds=kinds)
    (first,) = error.extra["problems"]["first"]
    assert [first[name] for name in ("kind", "line", "column", "value")] == [kind, 102, column, value]
    report = frozen(table([*good, cells]), kinds=kinds, schema=LENDING, accept_bad_rows=True)
    assert (len(report["all"]), report["problems"]["by_kind"]) == (100, {kind: 1})


def test_a_list_is_a_problem_in_a_feature_and_none_in_an_ignored_column(frozen: Frozen) -> None:
    rows = [{"income": n % 7, "age": n % 20, "default": n // 2 % 2} for n in range(30)]
    content = "".join(json.dumps(row) + "\n" for row in [*rows, {"income": [1], "age": 1, "default": 1}]).encode()
    (first,) = refused(frozen, content).extra["problems"]["first"]
    assert [first[name] for name in ("kind", "line", "column")] == ["not_plain", 31, "income"]
    report = frozen(content, schema=LENDING, kinds={"income": "ignore"})
    found = [row["features"] for row in report["all"]]
    assert (len(found), set(found)) == (31, {f'{{"age":"{age}"}}' for age in range(20)})


def test_without_a_column_to_learn_from_a_table_is_refused(frozen: Frozen) -> None:
    error = refused(frozen, table([(nr, paid) for nr, _, _, paid in loans(40)], "nr,default"))
    assert (error.reason, error.param) == ("missing_role", "kinds")
    assert error.message.startswith("train.csv: no column to learn from was found for the role 'features' (Features)")


def test_the_first_files_kinds_hold_for_the_others_whatever_columns_they_have(frozen: Frozen, tmp_path: Path) -> None:
    # by its own values ``home`` were an id here, and ``default`` were found by its values alone
    test = [(f"{n}", f"h{n}", "yn"[n % 2], "1") for n in range(12)]
    report = frozen(table(loans(60)), test=table(test, "extra,home,default,nr"), schema=LENDING)
    found = {row["features"] for row in report["all"] if row["split"] == "test"}
    assert found == {json.dumps({"income": None, "home": f"h{n}"}, separators=(",", ":")) for n in range(12)}
    assert metadata(tmp_path / "rows.parquet") == {"kinds": {"income": "number", "home": "category"}}


def test_a_feature_of_the_first_file_is_taken_for_no_role_of_the_second(frozen: Frozen) -> None:
    error = refused(frozen, table(loans(60)), test=table([row[:3] for row in loans(12, 60)], "nr,income,home"))
    assert error.message.startswith("test.csv: no column was found for the role 'outcome' (Outcome)")


def test_a_file_without_any_column_of_the_first_is_refused_by_its_name(frozen: Frozen) -> None:
    rows = [(f"{n % 5}", "yn"[n % 2]) for n in range(12)]
    error = refused(frozen, table(loans(60)), test=table(rows, "salary,default"))
    assert error.message == (
        "test.csv: none of the columns that are learned from is there, which are 'income', 'home'; the columns are "
        "'salary', 'default'. Name them as the training file does."
    )
    assert (error.reason, error.param) == ("missing_role", "test_file")


def test_a_bad_number_of_a_second_file_is_named_with_the_file(frozen: Frozen) -> None:
    error = refused(frozen, table(loans(60)), test=table([*loans(12, 60), ("7", "many", "own", "y")]))
    (first,) = error.extra["problems"]["first"]
    assert [first[name] for name in ("kind", "file", "line", "column")] == ["not_a_number", "test.csv", 14, "income"]


def test_equal_features_under_two_labels_are_kept_and_stay_on_one_side(frozen: Frozen) -> None:
    twins = [(f"{n}", "5000.5", "Rent" if n % 3 else "rent ", "yn"[n % 2]) for n in range(60, 90)]
    report = frozen(table([*loans(60), *twins]), schema=LENDING)
    assert (report["rows"]["kept"], report["problems"]["total"]) == (90, 0)
    found = [row for row in report["all"] if "5000.5" in row["features"]]
    assert ({row["outcome"] for row in found}, len({row["split"] for row in found})) == ({"y", "n"}, 1)
    assert report["warnings"]["by_kind"] == {"duplicate": 29}


def test_features_of_the_test_file_are_taken_out_of_training_whatever_the_order_of_the_columns(frozen: Frozen) -> None:
    train = loans(60)
    turned = [(home, "yn"[paid == "y"], income) for _, income, home, paid in [*train[:2], *loans(10, 70)]]
    report = frozen(table(train), test=table(turned, "home,default,income"), schema=LENDING)
    assert report["warnings"]["by_kind"] == {"in_two_splits": 2}
    assert [problem["line"] for problem in report["warnings"]["first"]] == [2, 3]
    assert report["splits"]["test"] == 12


def key(**features: str | None) -> str:
    """Of a row without another role."""
    from tilth.datasets.checks import key_of

    kinds = {"a": "number", "b": "number", "since": "date", "home": "category"}
    return key_of({"features": features}, [LENDING.field("features")], kinds)


def test_the_order_of_features_says_nothing_but_their_columns_do() -> None:
    assert key(a="1", b=None) == key(b=None, a="1")
    assert key(a="1", b=None) != key(a=None, b="1")


@pytest.mark.parametrize(
    ("column", "one", "other", "equal"),
    [
        ("a", "1234", "1234.0", True), ("a", "1e3", "1_000", True), ("a", "0", "-0.0", True), ("a", "0", None, False),
        ("a", "1", "1.0000001", False), ("home", "True", "true", True), ("home", "1", "1.0", False),
        ("since", "2026-02-28", "2026-02-28T00:00:00+00:00", True), ("since", "20260228", "2026-02-28", True),
        ("since", "2026-02-28", "2026-02-27T23:00:00-01:00", True), ("since", "2026-02-28", "2026-02-27", False),
        ("since", "0001-01-01T00:00+01:00", "0001-01-01T00:00+01:00", True),
    ],
)  # fmt: skip
def test_values_are_equal_however_they_are_spelled(column: str, one: str, other: str | None, equal: bool) -> None:
    assert (key(**{column: one}) == key(**{column: other})) is equal


def test_features_of_the_test_file_are_taken_out_of_training_however_their_numbers_are_spelled(frozen: Frozen) -> None:
    train = [(nr, f"{int(nr) * 37 % 997}", home, paid) for nr, _, home, paid in loans(60)]
    test = [(nr, f"{income}.0", home, paid) for nr, income, home, paid in train[:12]]
    report = frozen(table(train), test=table(test), schema=LENDING)
    assert report["warnings"]["by_kind"] == {"in_two_splits": 12}
    assert json.loads(report["all"][-1]["features"])["income"].endswith(".0"), "frozen as it was sent"


def test_a_boolean_category_is_frozen_in_one_spelling(frozen: Frozen) -> None:
    spelled = ["True", "FALSE", "true", "False", "tRUE", "TRUE"]
    rows = [(f"{n}", f"{n * 37 % 41}", spelled[n % 6], "yn"[n // 2 % 2]) for n in range(60)]
    report = frozen(table(rows), schema=LENDING)
    by_line = {row["line"]: json.loads(row["features"])["home"] for row in report["all"]}
    assert [by_line[line] for line in range(2, 8)] == ["true", "false", "true", "false", "tRUE", "true"]


def test_labels_too_rare_and_unseen_are_problems_of_tables_too(frozen: Frozen) -> None:
    rows = [*loans(60), ("60", "7.5", "own", "late")]
    assert [p["kind"] for p in refused(frozen, table(rows)).extra["problems"]["first"]] == ["rare_label"]
    error = refused(frozen, table(loans(60)), test=table([*loans(12, 60), ("1", "7.5", "own", "late")]))
    assert [p["kind"] for p in error.extra["problems"]["first"]] == ["unseen_label"]


def test_kinds_are_part_of_the_recipe_only_if_any_are_said(
    tenant: Any, stored_file: StoredFile, lending: Schema
) -> None:
    from dataclasses import replace

    from tilth.datasets.recipes import FORMAT, Request, _hash, recipe_of, schema_of

    file = stored_file(tenant, b"x")
    before = {
        "format": FORMAT, "schema": schema_of("support_chat").model_dump(mode="json"), "vertical": "support_chat",
        "files": {"training_file": file.sha256}, "columns": {"text": "t"},
        "options": {"seed": 0, "accept_bad_rows": False, "split": None},
    }  # fmt: skip
    plain = Request("support_chat", file.id, columns={"text": "t"})
    files = {"training_file": file}
    assert recipe_of(plain, files) == recipe_of(replace(plain, kinds={}), files) == _hash(before)
    tabular = Request("lending", file.id)
    said = [None, {"age": "number"}, {"age": "text"}]
    assert len({recipe_of(replace(tabular, kinds=kinds), files) for kinds in said}) == 3


@pytest.mark.slow
def test_a_version_is_frozen_with_the_kinds_that_were_sent_and_shows_those_it_has(
    tenant: Any, stored_file: StoredFile, lending: Schema
) -> None:
    from tilth.datasets.checking import check_run

    body = {"vertical": "lending", "training_file": f"file-{stored_file(tenant, table(loans(60))).id.hex}"}
    made = {}
    for kinds in (None, {"home": "ignore", "income": "category"}):
        wish = {**body, "kinds": kinds} if kinds else body
        asked = tenant.client.post("/api/datasets", wish, content_type="application/json").json()
        assert asked["kinds"] == kinds
        check_run(tenant=tenant.id, check=UUID(asked["id"].removeprefix("check-")))
        done = tenant.client.get(f"/api/checks/{asked['id']}").json()
        made[str(kinds)] = tenant.client.get(f"/api/datasets/{done['dataset']}").json()
    assert [version["kinds"] for version in made.values()] == [
        {"income": "number", "home": "category"}, {"income": "category"},
    ]  # fmt: skip
    assert made["None"]["report"]["features"][0] == {
        "column": "nr",
        "kind": "ignore",
        "reason": "no value twice: an id",
    }


@pytest.mark.slow
def test_a_report_is_asked_for_under_kinds(tenant: Any, stored_file: StoredFile, lending: Schema) -> None:
    from tilth.datasets.checking import check_run

    path = f"/api/files/file-{stored_file(tenant, table(loans(60))).id.hex}/report"
    query = {"vertical": "lending", "kinds": '{"home": "ignore"}'}
    check = tenant.client.get(path, query).json()["check"]
    check_run(tenant=tenant.id, check=UUID(check["id"].removeprefix("check-")))
    found = tenant.client.get(path, query).json()["check"]["report"]["features"]
    assert found[2] == {"column": "home", "kind": "ignore", "reason": "named by you"}
    assert tenant.client.get(path, {"vertical": "lending"}).json()["check"]["id"] != check["id"]


@pytest.mark.parametrize("path", ["/api/datasets", "/v1/fine_tuning/jobs"])
def test_an_unknown_kind_is_refused_at_once_with_the_nearest(tenant: Any, stored_file: StoredFile, path: str) -> None:
    file = f"file-{stored_file(tenant, table(loans(60))).id.hex}"
    body = {"training_file": file, "vertical": "support_chat", "kinds": {"income": "numbers"}}
    if path.startswith("/v1"):
        body["model"] = "minilm-l6"
    answer = tenant.client.post(path, body, content_type="application/json")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "kinds.income")
    assert "There is no kind 'numbers'" in answer.json()["error"]["message"]
    assert "Did you mean 'number'?" in answer.json()["error"]["message"]


@pytest.mark.slow
def test_a_jobs_kinds_reach_its_frozen_version(tenant: Any, stored_file: StoredFile, lending: Schema) -> None:
    from tilth.core.loops import Crew
    from tilth.core.scope import tenant_scope
    from tilth.training.models import Job
    from tilth.training.orders import JobIn, order_of
    from tilth.training.services import job_create
    from tilth.training.validator import Validator

    file = stored_file(tenant, table(loans(60)))
    sent = {"model": "minilm-l6", "vertical": "lending", "training_file": f"file-{file.id.hex}"}
    body = JobIn(data={**sent, "kinds": {"nr": "category"}})
    body.is_valid(raise_exception=True)
    job = job_create(tenant=tenant.id, by=tenant.principal, order=order_of(dict(body.validated_data)))
    Validator(Crew(1, "test")).validate(tenant.id, job)
    with tenant_scope(tenant.id):
        found = Job.objects.select_related("version").get(id=job)
        assert found.kinds == {"nr": "category"}
        assert found.version is not None, found.error
        assert found.version.kinds == {"nr": "category", "income": "number", "home": "category"}


@pytest.mark.slow
def test_a_files_page_shows_how_each_column_is_read_and_why(
    tenant: Any, stored_file: StoredFile, lending: Schema
) -> None:
    from tilth.datasets.selectors import file_get
    from tilth.datasets.services import file_check

    file = stored_file(tenant, table(loans(60)))
    file_check(tenant=tenant.id, file=file.id)
    report = file_get(tenant=tenant.id, file=file.id).report
    assert report is not None
    assert report["roles"]["support_chat"]["features"] == []
    assert report["roles"]["lending"] == {
        "columns": [{"role": "outcome", "column": "default", "reason": "the name 'default' is usual for outcome"}],
        "features": [
            {"column": "nr", "kind": "ignore", "reason": "no value twice: an id"},
            {"column": "income", "kind": "number", "reason": "numbers only"},
            {"column": "home", "kind": "category",
             "reason": "few values that repeat (2 distinct values in 60 rows, 4 characters on average)"},
        ],
        "missing": [],
        "split": "at random, each label in its share; equal rows stay together",
    }  # fmt: skip
    page = tenant.browser.get(f"/files/file-{file.id.hex}").content.decode()
    assert page.count("<th>Read as</th>") == 1
    assert '<td class="mono">nr</td><td>ignore</td><td>no value twice: an id</td>' in page


@pytest.mark.slow
def test_a_file_says_that_it_has_no_column_to_learn_from(tenant: Any, stored_file: StoredFile, lending: Schema) -> None:
    from tilth.datasets.selectors import file_get
    from tilth.datasets.services import file_check

    file = stored_file(tenant, table([(nr, paid) for nr, _, _, paid in loans(40)], "nr,default"))
    file_check(tenant=tenant.id, file=file.id)
    report = file_get(tenant=tenant.id, file=file.id).report
    assert report is not None
    assert report["roles"]["lending"]["missing"] == ["features"]
