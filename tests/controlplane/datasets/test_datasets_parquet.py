"""Parquet is read as a CSV of the same cells would be; what is no whole, plain table is named, and kills one child."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tilth.core.errors import Invalid  # isort: skip
from tilth.datasets import parquet_table  # isort: skip
from tilth.datasets.opening import open_table  # isort: skip
from tilth.datasets.reading import Record  # isort: skip

ROWS = """SELECT 'message number ' || range AS utterance, ['a', 'b'][range % 2 + 1] AS category FROM range({count})"""
Written = Callable[..., Path]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """A statement's rows as Parquet."""

    def write(statement: str, options: str = "", name: str = "rows.parquet") -> Path:
        path = tmp_path / name
        with duckdb.connect(config={"threads": "1"}) as memory:
            memory.execute(f"COPY ({statement}) TO '{path}' (FORMAT parquet {options})")
        return path

    return write


def cells(path: Path) -> list[tuple[int, list[Any]]]:
    return [(record.line, record.cells) for record in open_table(path).records() if isinstance(record, Record)]


def refused(path: Path) -> Invalid:
    with pytest.raises(Invalid) as error:
        for _ in open_table(path).records():
            pass
    assert str(path) not in error.value.message
    return error.value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("'Straße ☕'", "Straße ☕"), ("''", ""), ("NULL::VARCHAR", ""), ("NULL::INTEGER", ""),
        ("'a'::ENUM('a', 'b')", "a"), ("-7::TINYINT", "-7"), ("18446744073709551615::UBIGINT", "18446744073709551615"),
        ("0.1::FLOAT", "0.1"), ("1e300::DOUBLE", "1e+300"), ("'nan'::DOUBLE", ""), ("12.50::DECIMAL(9, 2)", "12.50"),
        ("true", "true"), ("DATE '2026-02-28'", "2026-02-28"), ("TIME '01:02:03'", "01:02:03"),
        ("TIMESTAMP '2026-02-28 01:02:03.5'", "2026-02-28T01:02:03.5"),
        ("TIMESTAMP_NS '2026-02-28 01:02:03'", "2026-02-28T01:02:03"),
        ("TIMESTAMPTZ '2026-02-28 01:02:03+02'", "2026-02-27T23:02:03+00:00"),
        ("UUID '0190a0a0-0000-7000-8000-000000000000'", "0190a0a0-0000-7000-8000-000000000000"),
        ("[1, 2]", None), ("{'a': 1}", None), ("MAP {'a': 1}", None), ("'\\x01'::BLOB", None),
    ],
)  # fmt: skip
def test_every_plain_type_is_the_text_that_a_csv_would_hold(written: Written, value: str, cell: str | None) -> None:
    path = written(f'SELECT \'x\' AS "te""xt", {value} AS value')
    table = open_table(path)
    assert (table.columns, list(table.records())) == (('te"xt', "value"), [Record(1, ["x", cell])])


def test_dates_and_numbers_are_such_as_the_checks_read(written: Written) -> None:
    from tilth.datasets.profile import date, number

    path = written(
        "SELECT TIMESTAMPTZ '2026-02-28 01:02:03.25+02' AS a, TIMESTAMP_MS '2026-02-28 01:02:03' AS b,"
        " 1e-7::DOUBLE AS c, 0.3::FLOAT AS d"
    )
    ((_, (a, b, c, d)),) = cells(path)
    assert (bool(date(a)), bool(date(b)), number(c), number(d)) == (True, True, 1e-7, 0.3)


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["uncompressed", "snappy", "gzip", "zstd", "lz4"])
def test_rows_come_in_order_with_their_numbers_from_every_codec_and_row_group(written: Written, codec: str) -> None:
    path = written(ROWS.format(count=5000), f", COMPRESSION {codec}, ROW_GROUP_SIZE 2048")
    assert open_table(path).about() == {"format": "parquet", "row_groups": 3, "not_plain": {}}
    assert cells(path) == [(n + 1, [f"message number {n}", "ab"[n % 2]]) for n in range(5000)]


def test_the_name_of_the_file_does_not_matter(written: Written) -> None:
    assert open_table(written(ROWS.format(count=1), name="rows.csv")).about()["format"] == "parquet"
    path = written(ROWS.format(count=1))
    path.write_bytes(b"text,label\na,b\n")
    assert open_table(path).about()["format"] == "csv"


def test_a_parquet_file_freezes_to_the_rows_of_the_same_csv(frozen: Any, written: Written) -> None:
    path = written(f"{ROWS.format(count=400)} UNION ALL SELECT NULL, 'a'")
    out = io.StringIO()
    csv.writer(out).writerows([["utterance", "category"], *(row for _, row in cells(path))])
    of_parquet, of_csv = (
        frozen(content, accept_bad_rows=True) for content in (path.read_bytes(), out.getvalue().encode())
    )
    assert [{**row, "line": row["line"] + 1} for row in of_parquet["all"]] == of_csv["all"]
    assert (of_parquet["rows"], of_parquet["splits"]) == (of_csv["rows"], of_csv["splits"])
    (problem,) = of_parquet["problems"]["first"]
    assert (problem["unit"], problem["line"], problem["column"]) == ("row", 401, "utterance")


def test_problems_are_told_by_row(frozen: Any, written: Written) -> None:
    path = written(f"{ROWS.format(count=40)} UNION ALL SELECT 'message number 3', 'a'")
    with pytest.raises(Invalid) as error:
        frozen(path.read_bytes())
    assert 'train.csv, row 4, column "category": the same text is labelled "a" at row 41' in error.value.message


def test_a_column_of_lists_or_bytes_is_in_the_way_only_when_it_has_a_role(frozen: Any, written: Written) -> None:
    rows = ROWS.format(count=40).replace(" FROM", ", [1.5::DOUBLE] AS embedding, 'x'::BLOB AS raw FROM")
    path = written(rows, name="all.parquet")
    assert open_table(path).about()["not_plain"] == {"embedding": "DOUBLE[]", "raw": "BLOB"}
    assert frozen(path.read_bytes())["rows"]["kept"] == 40
    with pytest.raises(Invalid) as error:
        frozen(path.read_bytes(), columns={"text": "raw"})
    told = 'row 1, column "raw": this is a list, an object or binary data (found no plain value); write plain text'
    assert told in error.value.message


def test_openais_chat_format_is_told_as_in_json_lines(written: Written) -> None:
    assert "OpenAI's chat format" in refused(written("SELECT [{'role': 'user', 'content': 'hi'}] AS messages")).message


def test_a_column_named_twice_is_refused(written: Written) -> None:
    path = written("SELECT 1 AS label, 2 AS laber")
    path.write_bytes(path.read_bytes().replace(b"laber", b"LABEL"))
    assert refused(path).message == 'The column "LABEL" is named twice (case does not count); rename one.'


def test_a_number_that_is_nan_is_missing(frozen: Any, written: Written, lending: Any) -> None:
    path = written(
        "SELECT CASE WHEN range % 20 = 0 THEN 'nan'::DOUBLE ELSE range * 7 + 0.25 END AS income,"
        " CASE WHEN range = 5 THEN 'nan'::FLOAT ELSE range % 9 END AS age, range // 2 % 2 AS paid FROM range(200)"
    )
    assert [row for _, row in cells(path)][:2] == [["", "0.0", "0"], ["7.25", "1.0", "0"]]
    report = frozen(path.read_bytes(), schema=lending)
    assert (report["rows"]["kept"], report["problems"]["total"]) == (200, 0)
    assert [(each["column"], each["kind"]) for each in report["features"]] == [("income", "number"), ("age", "number")]
    by_line = {row["line"]: json.loads(row["features"]) for row in report["all"]}
    assert (by_line[1], by_line[6]) == ({"income": None, "age": "0.0"}, {"income": "35.25", "age": None})


@pytest.mark.slow
def test_more_columns_than_are_kept_are_refused(written: Written) -> None:
    path = written("SELECT " + ", ".join(f"1 AS c{n}" for n in range(2001)))
    assert (error := refused(path)).reason == "too_many_columns"
    assert error.message.startswith("The file has more than 2,000 columns")


def test_a_long_cell_spoils_one_row(written: Written) -> None:
    path = written("SELECT repeat('x', CASE range WHEN 1 THEN 2000000 ELSE 3 END) AS text, 'a' AS label FROM range(3)")
    first, problem, last = open_table(path).records()
    assert (getattr(problem, "kind", None), problem.line) == ("long_cell", 2)
    assert [record.line for record in (first, last)] == [1, 3]


def damaged(content: bytes, how: str) -> bytes:
    return {
        "truncated": content[: len(content) // 2],
        "no end": content[:-1],
        "head only": content[:4],
        "footer of zeros": content[:-400] + bytes(392) + content[-8:],
        "footer longer than the file": content[:-8] + b"\xff\xff\xff\x7fPAR1",
        "pages of zeros": content[:4] + bytes(2000) + content[2004:],
    }[how]


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("truncated", "The Parquet file breaks off"),
        ("no end", "it ends with the bytes 00 50 41 52 instead of PAR1"),
        ("head only", "The Parquet file breaks off"),
        ("footer of zeros", "The Parquet file cannot be read"),
        ("footer longer than the file", "The Parquet file cannot be read"),
        ("pages of zeros", "The Parquet file cannot be read"),
    ],
)
def test_a_damaged_file_is_refused_with_what_was_found(written: Written, how: str, told: str) -> None:
    path = written(ROWS.format(count=5000))
    path.write_bytes(damaged(path.read_bytes(), how))
    assert told in refused(path).message


def test_an_encrypted_file_is_named(written: Written, tmp_path: Path) -> None:
    path = tmp_path / "secret.parquet"
    with duckdb.connect(config={"threads": "1"}) as memory:
        memory.execute("SET force_mbedtls_unsafe = 'true'; PRAGMA add_parquet_key('k', '0123456789abcdef')")
        memory.execute(
            f"COPY ({ROWS.format(count=10)}) TO '{path}' (FORMAT parquet, ENCRYPTION_CONFIG {{footer_key: 'k'}})"
        )
    assert refused(path).message == "The file is encrypted Parquet; write it without encryption."


def test_a_file_without_rows_is_told(written: Written) -> None:
    assert refused(written(f"{ROWS.format(count=1)} WHERE false")).reason == "no_rows"


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param("SELECT repeat('x', 3000000) AS text, 'a' AS label FROM range(2000)", id="long cells"),
        pytest.param("SELECT repeat(range::VARCHAR, 200000) AS text, 'a' AS label FROM range(2000)", id="dictionary"),
    ],
)
@pytest.mark.slow
def test_a_small_file_that_grows_beyond_the_memory_is_an_error_and_the_product_goes_on(
    tenant: Any, stored_file: Any, written: Written, bomb: str
) -> None:
    from tilth.datasets.selectors import file_get
    from tilth.datasets.services import file_check

    path = written(bomb, ", COMPRESSION zstd, ROW_GROUP_SIZE 2048")
    assert path.stat().st_size < 20 << 20
    file = stored_file(tenant, path.read_bytes(), "bomb.parquet")
    file_check(tenant=tenant.id, file=file.id)
    found = file_get(tenant=tenant.id, file=file.id)
    assert (found.status, "MiB" in found.status_details) == ("error", True), found.status_details
    good = stored_file(tenant, written(ROWS.format(count=40)).read_bytes(), "good.parquet")
    file_check(tenant=tenant.id, file=good.id)
    assert file_get(tenant=tenant.id, file=good.id).status == "processed"


def test_a_file_of_more_rows_than_can_ever_be_read_is_refused_at_once(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_table, "MOST_ROWS", 1000)
    assert refused(written(ROWS.format(count=1001))).message == "The file has 1,001 rows; send at most 1,000."


@pytest.mark.slow
def test_a_parquet_upload_is_processed_and_reported_like_any(tenant: Any, stored_file: Any, written: Written) -> None:
    from tilth.datasets.selectors import file_get
    from tilth.datasets.services import file_check

    file = stored_file(tenant, written(ROWS.format(count=40)).read_bytes(), "rows.parquet")
    file_check(tenant=tenant.id, file=file.id)
    found: Any = file_get(tenant=tenant.id, file=file.id)
    assert (found.status, found.report["format"], found.report["rows"], found.report["unit"]) == (
        "processed", "parquet", 40, "row"
    )  # fmt: skip
    roles = found.report["roles"]["support_chat"]["columns"]
    assert {match["role"]: match["column"] for match in roles} == {"text": "utterance", "label": "category"}
