"""Columns find their roles: as said, else by name, else by values, with reasons that can be read."""

from pathlib import Path

import pytest
from tilth.contract.vertical import FieldKind, Schema, SchemaField

from tilth.core.errors import Invalid  # isort: skip
from tilth.datasets.columns import match_columns, refuse_missing  # isort: skip
from tilth.datasets.intake import sampled  # isort: skip
from tilth.datasets.opening import open_table  # isort: skip
from tilth.datasets.profile import Column, profile  # isort: skip

TEXT = SchemaField(role="text", kind=FieldKind.TEXT, title="Message", aliases=("message", "utterance"))
LABEL = SchemaField(role="label", kind=FieldKind.LABEL, title="Intent", aliases=("intent", "category"))
SCHEMA = Schema(fields=(TEXT, LABEL))


def columns(tmp_path: Path, header: str, *rows: str) -> list[Column]:
    path = tmp_path / "table.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    table = open_table(path)
    return profile(table.columns, sampled(table))


def roles(found: list[Column], said: dict[str, str] | None = None) -> dict[str, str]:
    return {match.role: match.column for match in match_columns(SCHEMA, found, said)}


def test_usual_names_are_known_whatever_their_case_and_spaces(tmp_path: Path) -> None:
    found = columns(tmp_path, "Category, Utterance ,id", "a,hello there,1", "b,good bye,2")
    assert roles(found) == {"text": "Utterance", "label": "Category"}


def test_unusual_names_are_found_by_their_values_and_the_reason_tells_the_figures(tmp_path: Path) -> None:
    rows = [f"{n},this is question number {n},{'xy'[n % 2]}" for n in range(20)]
    matches = match_columns(SCHEMA, columns(tmp_path, "n,was,wozu", *rows), None)
    assert [(match.role, match.column) for match in matches] == [("text", "was"), ("label", "wozu")]
    assert matches[1].reason == (
        "by its values: few, short values that repeat (2 distinct values in 20 rows, 1 characters on average)"
    )


def test_what_is_said_goes_before_what_is_usual(tmp_path: Path) -> None:
    found = columns(tmp_path, "text,label,other", "some words,a,b", "more words,b,a")
    assert roles(found, {"label": "other"}) == {"text": "text", "label": "other"}


def test_a_split_column_is_known_by_name_and_values(tmp_path: Path) -> None:
    rows = ["one two three,a,train", "four five six,b,dev"]
    assert roles(columns(tmp_path, "text,label,split", *rows))["split"] == "split"
    assert "split" not in roles(columns(tmp_path, "text,label,split", *rows, "seven eight,a,banana"))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"utterance": "text"}, "There is no role 'utterance'; the roles are text, label, split."),
        ({"text": "texd"}, "the columns are 'text', 'label'. Did you mean 'text'?"),
        ({"text": "text", "label": "text"}, "columns names 'text' for both 'text' and 'label'"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused_with_what_there_is(
    tmp_path: Path, said: dict[str, str], told: str
) -> None:
    with pytest.raises(Invalid) as refused:
        roles(columns(tmp_path, "text,label", "some words,a"), said)
    assert told in refused.value.message
    assert refused.value.param == "columns"


def test_a_role_without_a_column_is_named_with_what_to_say(tmp_path: Path) -> None:
    found = columns(tmp_path, "a,b", "1,2", "3,4")
    with pytest.raises(Invalid, match=r"no column was found for the role 'text' \(Message\), 'label' \(Intent\)"):
        refuse_missing(SCHEMA, match_columns(SCHEMA, found, None), ["a", "b"], "rows.csv")


def test_numbers_dates_and_ids_are_found_by_their_values(tmp_path: Path) -> None:
    kinds = {"amount": FieldKind.NUMBER, "day": FieldKind.DATE, "who": FieldKind.ID}
    schema = Schema(fields=tuple(SchemaField(role=role, kind=kind, title=role) for role, kind in kinds.items()))
    rows = [f"2026-01-0{n + 1},u{n},{n % 3}.5" for n in range(9)]
    matches = match_columns(schema, columns(tmp_path, "a,b,c", *rows), None)
    assert {match.role: match.column for match in matches} == {"amount": "c", "day": "a", "who": "b"}
