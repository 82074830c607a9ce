"""Cells with several labels: how they are written, found, checked, frozen, and what all rows together show of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tilth.contract.vertical import FieldKind, Schema, SchemaField

from tilth.core.errors import Invalid  # isort: skip
from tilth.datasets.columns import match_columns  # isort: skip
from tilth.datasets.intake import sampled  # isort: skip
from tilth.datasets.opening import open_table  # isort: skip
from tilth.datasets.profile import profile  # isort: skip
from tilth.datasets.several import labels_in  # isort: skip

Frozen = Callable[..., dict[str, Any]]
TEXT = SchemaField(role="text", kind=FieldKind.TEXT, title="Message")
TOPICS = SchemaField(role="topics", kind=FieldKind.LABELS, title="Topics", aliases=("tags",))
SCHEMA = Schema(fields=(TEXT, TOPICS), out_of_scope_labels=("oos",))


def table(cells: list[str], header: str = "text,topics") -> bytes:
    return "\n".join([header, *(f"this is message number {n},{cell}" for n, cell in enumerate(cells)), ""]).encode()


def lines(sets: list[Any], name: str = "topics") -> bytes:
    return "".join(
        json.dumps({"text": f"this is message number {n}", name: s}) + "\n" for n, s in enumerate(sets)
    ).encode()


CYCLE = ["red|blue", "red", "", "green;red", "blue"]
SETS = [["blue", "red"], ["red"], [], ["green", "red"], ["blue"]]


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ("a", ["a"]),
        (" b | a |b", ["a", "b"]),
        ("a;b;;", ["a", "b"]),
        ("", []),
        (' ["b", "a", 3]', ["3", "a", "b"]),
        ("[]", []),
        ("[not json|at all", ["[not json|at all"]),
        ('[["a"]]', None),
        ('[{"a": 1}]', None),
    ],
)
def test_a_cell_holds_labels_as_a_list_or_between_signs(cell: str, labels: list[str] | None) -> None:
    assert labels_in(cell) == labels


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="|;["), min_size=1).map(str.strip)))
def test_what_is_written_either_way_is_read_alike(labels: list[str]) -> None:
    expected = sorted({label for label in labels if label})
    assert labels_in(json.dumps(labels)) == labels_in("|".join(labels)) == expected


def test_sets_are_frozen_as_json_whatever_the_file_and_an_empty_one_is_a_row(frozen: Frozen) -> None:
    for content in (table(CYCLE * 20), lines(SETS * 20)):
        report = frozen(content, schema=SCHEMA)
        assert [json.loads(row["topics"]) for row in sorted(report["all"], key=lambda row: row["line"])] == SETS * 20
        assert report["labels"] == {"red": 60, "blue": 40, "green": 20}
        assert report["problems"]["total"] == report["warnings"]["total"] == 0


@pytest.mark.parametrize(
    ("bad", "kind", "value"),
    [
        ({"a": 1}, "not_labels", None),
        ([["a"]], "not_labels", '"[["a"]]"'),
        ([True, None], "not_labels", '"[true, null]"'),
        (["x" * 201], "long_label", None),
    ],
)
def test_a_cell_that_holds_no_labels_is_named_with_line_and_cure(
    frozen: Frozen, bad: Any, kind: str, value: str | None
) -> None:
    with pytest.raises(Invalid) as refused:
        frozen(lines([*SETS * 4, bad]), schema=SCHEMA)
    (first,) = refused.value.extra["problems"]["first"]
    assert (first["kind"], first["line"], first["column"]) == (kind, 21, "topics")
    assert value is None or first["value"] == value


def test_only_the_choices_of_a_field_are_labels(frozen: Frozen) -> None:
    chosen = TOPICS.model_copy(update={"choices": ("red", "blue", "green")})
    with pytest.raises(Invalid, match=r'"pink" is none of the choices .*; write one of red, blue, green'):
        frozen(table([*CYCLE * 4, "red|pink"]), schema=Schema(fields=(TEXT, chosen)))


def test_equal_texts_with_other_labels_contradict_each_other_and_an_order_of_labels_does_not(frozen: Frozen) -> None:
    again = b"this is message number 0,blue|red\nthis is message number 1,blue\n"
    with pytest.raises(Invalid) as refused:
        frozen(table(CYCLE * 4) + again, schema=SCHEMA)
    assert [p["line"] for p in refused.value.extra["problems"]["first"]] == [3, 23]


def test_rows_of_which_none_has_a_label_cannot_be_learned_from(frozen: Frozen) -> None:
    for cells in ([""] * 40, ["oos"] * 40):
        with pytest.raises(Invalid, match="no training row has a label; an empty cell means none of them") as refused:
            frozen(table(cells), schema=SCHEMA)
        assert refused.value.reason == "no_label"


def test_one_label_is_enough_if_some_rows_have_it(frozen: Frozen) -> None:
    assert frozen(table(["red", ""] * 20), schema=SCHEMA)["labels"] == {"red": 20}


def test_labels_that_training_has_not_are_told(frozen: Frozen) -> None:
    report = frozen(table(CYCLE * 20), test=table(["red|late", "oos"]).replace(b"this is", b"that was"), schema=SCHEMA)
    assert report["warnings"]["by_kind"] == {"unseen_label": 1}
    assert report["warnings"]["first"][0]["message"].endswith("labels that training has not: late")


@pytest.mark.parametrize("content", [table(CYCLE * 20, "words,what"), lines(SETS * 20, "what")])
def test_a_column_of_several_labels_is_found_by_its_values(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "table"
    path.write_bytes(content)
    opened = open_table(path)
    matches = match_columns(SCHEMA, profile(opened.columns, sampled(opened)), None)
    (found,) = [match for match in matches if match.role == "topics"]
    assert (found.column, found.reason) == (
        "what", f"by its values: 3 labels that repeat in {80 if content[:1] == b'w' else 100} rows, several in one cell"
    )  # fmt: skip


def test_texts_with_semicolons_are_no_labels_and_a_list_stays_no_plain_value(frozen: Frozen, tmp_path: Path) -> None:
    rows = [{"text": f"one {n}; two {n}; three", "other": [f"a{n}"], "label": "ab"[n % 2]} for n in range(40)]
    path = tmp_path / "table"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    opened = open_table(path)
    columns = profile(opened.columns, sampled(opened))
    assert [(column.name, column.filled, column.listed) for column in columns] == [
        ("text", 40, 0), ("other", 0, 40), ("label", 40, 0),
    ]  # fmt: skip
    assert [match.role for match in match_columns(SCHEMA, columns, None)] == ["text"]
