"""Tables are read with exact line numbers, and what cannot be read is named by line and byte."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.core.errors import Invalid  # isort: skip
from tilth.datasets.opening import open_table  # isort: skip
from tilth.datasets.reading import Record  # isort: skip
from tilth.datasets.report import Problem  # isort: skip

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
ROWS = st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=20)

Read = Callable[[bytes], list[Record | Problem]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Every record of a content."""

    def reader(content: bytes) -> list[Record | Problem]:
        path = tmp_path / "table"
        path.write_bytes(content)
        return list(open_table(path).records())

    return reader


def cells(records: list[Record | Problem]) -> list[tuple[int, list[Any]]]:
    return [(record.line, record.cells) for record in records if isinstance(record, Record)]


def problem(records: list[Record | Problem]) -> Problem:
    (found,) = [record for record in records if isinstance(record, Problem)]
    return found


@pytest.mark.slow
@given(rows=ROWS, end=st.sampled_from(["\n", "\r\n"]), bom=st.booleans(), delimiter=st.sampled_from(",;\t"))
def test_every_row_of_any_csv_comes_back_with_the_line_it_begins_at(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], end: str, bom: bool, delimiter: str
) -> None:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow(["text", "label"])
    expected = []
    for row in rows:
        expected.append((out.getvalue().count("\n") + 1, list(row)))
        writer.writerow(row)
    path = tmp_path_factory.mktemp("csv") / "table"
    path.write_bytes(b"\xef\xbb\xbf" * bom + out.getvalue().encode())
    table = open_table(path)
    assert table.columns == ("text", "label")
    assert cells(list(table.records())) == expected


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_is_told_by_the_rows_that_fit_the_header(read: Read, delimiter: str) -> None:
    content = f'text{delimiter}label\n"a, b; c\td"{delimiter}x\nplain{delimiter}y\n'.encode()
    assert cells(read(content)) == [(2, ["a, b; c\td", "x"]), (3, ["plain", "y"])]


def test_blank_lines_count_as_lines_and_not_as_rows(read: Read) -> None:
    assert cells(read(b"text,label\r\n\r\na,b\r\n\r\n\r\nc,d")) == [(3, ["a", "b"]), (6, ["c", "d"])]


def test_a_byte_that_is_not_utf8_is_named_by_line_and_byte_and_spoils_one_row(read: Read) -> None:
    records = read(b'text,label\na,b\n"two\nlines, caf\xe9",c\nd,e\n')
    found = problem(records)
    assert (found.line, found.message) == (4, "byte 11 of the line, 0xE9, is not UTF-8")
    assert cells(records) == [(2, ["a", "b"]), (5, ["d", "e"])]


def test_a_byte_order_mark_counts_among_the_bytes_of_its_line(read: Read) -> None:
    with pytest.raises(Invalid, match="byte 4 of the line, 0xFF"):
        read(b"\xef\xbb\xbf\xff,label\na,b\n")


def test_a_ragged_line_is_named_with_what_it_has_and_should_have(read: Read) -> None:
    found = problem(read(b"text,label\na,b\nhello, world,c\nd,e\n"))
    assert (found.line, found.kind, found.value) == (3, "ragged", '"hello, world,c"')
    assert found.message == "the row has 3 cells where the header has 2"


def test_a_cell_of_ten_megabytes_is_named_and_spoils_one_row(read: Read) -> None:
    records = read(b"text,label\na,b\n" + b"x" * 10_000_000 + b",c\nd,e\n")
    found = problem(records)
    assert (found.line, found.column) == (3, "text")
    assert found.message == "the cell has more than 1,048,576 characters"
    assert (found.value or "").endswith('… (10,000,000 characters)"')
    assert [line for line, _ in cells(records)] == [2, 4]


def test_a_line_without_end_is_refused_before_it_fills_the_memory(read: Read) -> None:
    with pytest.raises(Invalid, match="Line 2 is longer than 32 MiB"):
        read(b"text,label\n" + b"x" * (33 << 20))


def test_quotes_that_do_not_match_are_one_rows_problem(read: Read) -> None:
    records = read(b'text,label\n"a" b,c\nd,e\n')
    assert (problem(records).line, problem(records).kind) == (2, "bad_quotes")
    assert cells(records) == [(3, ["d", "e"])]


def test_a_quote_that_is_never_closed_is_named_where_it_opens(read: Read) -> None:
    with pytest.raises(Invalid, match=r"^Line 3: a quote opened here does not end as a quote should up to line 5"):
        read(b'text,label\na,b\n"open,c\nd,e\nf,g\n')


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "The file is empty"),
        (b"\xef\xbb\xbf  \n", "The file is empty"),
        (b"text,label\n", "The file has a header but no rows"),
        (b"text,label,text\na,b,c\n", 'the column "text" is named twice, as columns 1 and 3'),
        (b'[{"text": "a"}]', "one JSON list; write one object on each line"),
        ("text,label\na,b\n".encode("utf-16"), "saved as UTF-16; save it as UTF-8"),
        (b"text,label\ra,b\r", "The lines end in CR alone"),
        (b"PARE....", "encrypted Parquet; write it without encryption"),
        (b'{"messages": []}\n', "OpenAI's chat format"),
    ],
)
def test_what_is_no_table_is_refused_with_what_to_send(read: Read, content: bytes, told: str) -> None:
    with pytest.raises(Invalid, match=told.replace("(", r"\(")):
        read(content)


def test_json_lines_come_with_their_lines_and_their_keys_as_columns(read: Read) -> None:
    content = b'\n{"text": "a", "label": 1}\r\n\n{"label": true, "other": null}\n'
    assert cells(read(content)) == [(2, ["a", "1", ""]), (4, ["", "true", ""])]


def test_a_key_of_any_later_row_is_a_column(read: Read) -> None:
    strange = b'{"text": "b", "only json reads it": {"x": "\\ud800"}}\n'
    records = read(b'{"text": "a"}\n' * 1500 + strange + b'{"text": "c", "split": "test"}\n')
    assert cells(records[:1]) == [(1, ["a", "", ""])]
    assert cells(records[-1:]) == [(1502, ["c", "", "test"])]


def test_a_row_that_cannot_be_read_brings_no_column(read: Read) -> None:
    records = read(b'{"text": "a"}\n{"text": "b", "x": NaN}\n{"text": "caf\xe9", "y": 1}\n{"text": "c"}\n')
    assert cells(records) == [(1, ["a"]), (4, ["c"])]


def test_finding_a_key_that_stands_twice_takes_no_comparison_of_all_with_all() -> None:
    from tilth.core.pairs import unique

    compared = 0

    class Key(str):
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

    with pytest.raises(ValueError, match="the key '999' stands twice"):
        unique([(Key(number), None) for number in (*range(1000), 999)])
    assert compared < 10_000


@pytest.mark.parametrize(
    "content",
    [
        ",".join(f"c{n}" for n in range(2001)) + "\n" + "," * 2000 + "\n",
        json.dumps({f"c{n}": n for n in range(2001)}),
        "".join(f'{{"c{n}": {n}}}\n' for n in range(2001)),
    ],
    ids=["csv", "one line", "a key in each line"],
)
def test_more_columns_than_are_kept_are_refused(read: Read, content: str) -> None:
    with pytest.raises(Invalid, match="more than 2,000 columns") as error:
        read(content.encode())
    assert error.value.reason == "too_many_columns"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"text": }', "this is no JSON object: Expecting value"),
        (b'{"text": "a", "text": "b"}', "the key 'text' stands twice"),
        (b'{"text": NaN}', "NaN is no JSON number"),
        (b"[1]", "this is a JSON list"),
        (b"[" * 100_000, "too deeply nested"),
        (b'{"text": "caf\xe9"}', "byte 14 of the line, 0xE9, is not UTF-8"),
        (b'{"text": "\\ud800"}', "half a surrogate pair"),
        (b'{"text": "\\u0000"}', "a NUL"),
    ],
)
def test_a_bad_line_of_json_is_named_and_spoils_one_row(read: Read, line: bytes, told: str) -> None:
    records = read(b'{"text": "a"}\n' + line + b'\n{"text": "b"}\n')
    assert (problem(records).line, told in problem(records).message) == (2, True), problem(records).message
    assert cells(records) == [(1, ["a"]), (3, ["b"])]
