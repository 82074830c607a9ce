"""Every check names line, column, value and cure; what is left is split fairly and frozen."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.errors import Invalid  # isort: skip

Frozen = Callable[..., dict[str, Any]]
Rows = Sequence[tuple[str, ...]]


def table(rows: Rows, header: str = "text,label") -> bytes:
    return "\n".join([header, *(",".join(row) for row in rows), ""]).encode()


def good(count: int, labels: Sequence[str] = ("red", "green"), word: str = "message") -> list[tuple[str, str]]:
    return [(f"{word} number {number}", labels[number % len(labels)]) for number in range(count)]


def refused(frozen: Frozen, *contents: bytes, **facts: Any) -> Invalid:
    with pytest.raises(Invalid) as caught:
        frozen(*contents, **facts)
    return caught.value


def only(error: Invalid) -> dict[str, Any]:
    first: list[dict[str, Any]] = error.extra["problems"]["first"]
    assert len(first) == 1
    return {name: first[0][name] for name in ("kind", "file", "line", "column", "value")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "kind", "column", "value"),
    [
        (("   ", "red"), "empty_text", "text", None),
        (("some words", ""), "empty_label", "label", None),
        (("some words", "x" * 201), "long_label", "label", '"' + "x" * 80 + '… (201 characters)"'),
    ],
)
def test_a_row_that_cannot_be_learned_from_is_named(
    frozen: Frozen, row: tuple[str, str], kind: str, column: str, value: str | None
) -> None:
    error = refused(frozen, table([*good(20), row]))
    assert only(error) == {"kind": kind, "file": "train.csv", "line": 22, "column": column, "value": value}
    report = frozen(table([*good(20), row]), accept_bad_rows=True)
    assert (len(report["all"]), report["problems"]["by_kind"]) == (20, {kind: 1})


def test_the_same_text_under_two_labels_is_named_on_both_lines(frozen: Frozen) -> None:
    rows = [*good(20), ("Where is  it?", "red"), ("where is it?", "green")]
    error = refused(frozen, table(rows))
    first, second = error.extra["problems"]["first"]
    assert (first["kind"], first["line"], first["column"], first["value"]) == ("two_labels", 22, "label", '"red"')
    assert first["message"] == 'the same text is labelled "green" at line 23'
    assert second["message"] == 'the same text is labelled "red" at line 22'
    assert len(frozen(table(rows), accept_bad_rows=True)["all"]) == 20


def test_a_single_class_is_refused_even_when_bad_rows_are_accepted(frozen: Frozen) -> None:
    error = refused(frozen, table(good(20, ["red"])), accept_bad_rows=True)
    assert error.reason == "single_class"
    assert error.message.startswith('train.csv: every row has the label "red"; a model needs examples of at least two')


def test_out_of_scope_rows_are_no_class(frozen: Frozen) -> None:
    assert refused(frozen, table(good(20, ["red", "oos"]))).reason == "single_class"
    assert len(frozen(table([*good(20), ("what about the moon", "oos")]))["all"]) == 21


def test_a_class_with_one_row_is_named(frozen: Frozen) -> None:
    error = refused(frozen, table([*good(20), ("only one", "blue"), ("Only  one", "blue")]))
    found = error.extra["problems"]
    assert found["total"] == 2
    assert (found["first"][0]["kind"], found["first"][0]["line"], found["first"][0]["value"]) == (
        "rare_label",
        22,
        '"blue"',
    )


def test_too_few_rows_are_refused_with_the_number_needed(frozen: Frozen) -> None:
    error = refused(frozen, table(good(9)))
    assert error.reason == "too_few_rows"
    assert "9 different rows can be learned from; at least 10 are needed" in error.message


def test_duplicates_are_told_and_stay_on_one_side(frozen: Frozen) -> None:
    rows = [*good(40), *[("Say it AGAIN ", "red")] * 30]
    report = frozen(table(rows))
    assert report["warnings"]["by_kind"] == {"duplicate": 29}
    assert (report["warnings"]["first"][0]["line"], report["warnings"]["first"][0]["message"]) == (
        43,
        "the same row stands at line 42",
    )
    assert len({row["split"] for row in report["all"] if row["text"] == "Say it AGAIN"}) == 1


def test_rows_in_both_train_and_test_are_told_and_left_out_of_training(frozen: Frozen) -> None:
    train, test = good(40), [("message number 3", "green"), *good(10, word="other")]
    report = frozen(table(train), test=table(test))
    (warning,) = report["warnings"]["first"]
    assert (warning["kind"], warning["file"], warning["line"]) == ("in_two_splits", "train.csv", 5)
    assert warning["message"] == "the same row stands in test at line 2 of test.csv"
    assert report["splits"] == {"train": 35, "validation": 4, "test": 11}
    sides = {row["split"] for row in report["all"] if row["text"] == "message number 3"}
    assert sides == {"test"}


def test_a_contradiction_between_train_and_test_is_a_problem_of_both(frozen: Frozen) -> None:
    error = refused(frozen, table(good(40)), test=table([("message number 3", "red"), *good(10, word="other")]))
    first, second = error.extra["problems"]["first"]
    assert (first["file"], second["file"]) == ("test.csv", "train.csv")
    assert second["message"] == 'the same text is labelled "red" at line 2 of test.csv'


def test_a_label_that_only_the_test_file_has_is_named(frozen: Frozen) -> None:
    error = refused(frozen, table(good(40)), test=table([*good(10, word="other"), ("new", "blue"), ("moon", "oos")]))
    assert only(error) == {
        "kind": "unseen_label",
        "file": "test.csv",
        "line": 12,
        "column": "label",
        "value": '"blue"',
    }
    assert error.param == "test_file"


def test_a_given_split_is_kept_and_what_is_not_given_is_taken_from_training(frozen: Frozen) -> None:
    rows: Rows = [(*row, "Test" if n % 4 == 0 else "train") for n, row in enumerate(good(80, ("a", "b", "c")))]
    report = frozen(table(rows, "text,label,split"))
    assert report["splits"] == {"train": 54, "validation": 6, "test": 20}
    assert {row["line"] for row in report["all"] if row["split"] == "test"} == {n + 2 for n in range(0, 80, 4)}


def test_a_test_file_appended_to_a_training_file_is_for_test_alone(
    frozen: Frozen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tilth.datasets.intake.SAMPLED_ROWS", 1000)
    train = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in good(1100))
    test = "".join(
        json.dumps({"text": text, "label": label, "split": "test"}) + "\n" for text, label in good(20, word="other")
    )
    report = frozen((train + test).encode())
    assert {row["line"] for row in report["all"] if row["split"] == "test"} == set(range(1101, 1121))
    assert report["columns"][-1] == {
        "role": "split", "column": "split", "reason": "the name is usual for it, and the first rows leave it empty",
    }  # fmt: skip


def test_a_split_column_that_was_named_must_name_splits(frozen: Frozen) -> None:
    rows: Rows = [(*row, "train") for row in good(20)]
    error = refused(
        frozen, table([*rows, ("words", "red", "banana")], "text,label,side"), columns={"split": "side"}
    )  # fmt: skip
    assert only(error)["value"] == '"banana"'


def test_the_test_file_may_name_its_columns_otherwise(frozen: Frozen) -> None:
    report = frozen(table(good(20)), test=table(good(10, word="other"), "utterance,intent"))
    assert report["splits"]["test"] == 10


def test_a_missing_column_of_the_test_file_is_named_with_the_file(frozen: Frozen) -> None:
    error = refused(frozen, table(good(20)), test=b"a,b\n1,2\n")
    assert error.message.startswith("test.csv: no column was found for the role 'text'")


def test_json_lines_freeze_like_csv_and_nested_values_are_named(frozen: Frozen) -> None:
    objects: list[dict[str, Any]] = [{"intent": label, "message": text} for text, label in good(20)]
    content = "".join(json.dumps(each) + "\n" for each in objects)
    assert len(frozen(content.encode())["all"]) == 20
    error = refused(frozen, (content + '{"intent": "red", "message": ["a"]}\n').encode())
    assert only(error) == {
        "kind": "not_plain",
        "file": "train.csv",
        "line": 21,
        "column": "message",
        "value": '"["a"]"',
    }


def test_many_problems_are_counted_and_the_first_are_told(frozen: Frozen) -> None:
    error = refused(frozen, table([*good(20), *[("", "red")] * 1000]))
    assert error.message.startswith("1,000 of 1,020 rows cannot be learned from: train.csv, line 22, column")
    assert "And 995 more." in error.message
    assert (error.extra["problems"]["total"], len(error.extra["problems"]["first"])) == (1000, 100)


@pytest.mark.slow
def test_the_same_seed_splits_alike_and_another_one_otherwise(frozen: Frozen) -> None:
    def sides(seed: int) -> list[str]:
        return [row["split"] for row in sorted(frozen(table(good(100)), seed=seed)["all"], key=lambda r: r["line"])]

    assert sides(3) == sides(3)
    assert sides(3) != sides(4)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 40), min_size=2, max_size=12).filter(lambda sizes: sum(sizes) >= 10),
    seed=st.integers(0, 2**31 - 1),
)
def test_splits_are_a_tenth_each_and_every_label_gives_its_share_and_can_be_learned(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], seed: int
) -> None:
    from tilth.contract.vertical import FieldKind, Schema, SchemaField
    from tilth.datasets.freeze import Wish, freeze
    from tilth.datasets.intake import Source

    fields = (
        SchemaField(role="text", kind=FieldKind.TEXT, title="Message"),
        SchemaField(role="label", kind=FieldKind.LABEL, title="Intent"),
    )
    rows = [(f"text {label} {n}", f"label {label}") for label, size in enumerate(sizes) for n in range(size)]
    folder = tmp_path_factory.mktemp("split")
    path = folder / "rows.csv"
    path.write_bytes(table(rows))
    wish = Wish(Schema(fields=fields), None, seed, False)
    freeze([Source(path, "rows.csv", None, "training_file")], wish, folder, folder / "out")
    import duckdb

    with duckdb.connect() as memory:
        frozen_rows = memory.execute("SELECT split, label FROM read_parquet(?)", [str(folder / "out")]).fetchall()
    count = Counter(split for split, _ in frozen_rows)
    for side in ("validation", "test"):
        assert count[side] >= 1
        assert abs(count[side] - len(rows) / 10) < 1
        for label, size in enumerate(sizes):
            assert abs(frozen_rows.count((side, f"label {label}")) - size / 10) < 1
    assert all(frozen_rows.count(("train", f"label {label}")) >= 1 for label in range(len(sizes)))


def test_a_text_of_any_content_comes_out_of_the_frozen_file_as_it_went_in(frozen: Frozen) -> None:
    strange = [
        "=1+1",
        'a "quoted" word',
        "two\nlines",
        "tab\there",
        "Ünïcödé ✓ 漢字 🙂",
        "\\N",
        "null",
        "a,b;c",
        "x\u2028x",
    ]
    objects = [{"text": text, "label": "ab"[n % 2]} for n, text in enumerate([*strange, *(f"t {n}" for n in range(9))])]
    content = "".join(json.dumps(each) + "\n" for each in objects).encode()
    assert {row["text"] for row in frozen(content)["all"]} >= set(strange)


def test_a_number_that_is_learned_needs_no_classes(frozen: Frozen) -> None:
    from tilth.contract.vertical import FieldKind, Schema, SchemaField

    fields = (
        SchemaField(role="text", kind=FieldKind.TEXT, title="Message"),
        SchemaField(role="price", kind=FieldKind.NUMBER, title="Price"),
    )
    rows = [(f"thing number {n}", f"{n}.5") for n in range(30)]
    report = frozen(table(rows, "text,price"), schema=Schema(fields=fields))
    assert sorted(row["price"] for row in report["all"]) == [n + 0.5 for n in range(30)]
    error = refused(
        frozen, table([*rows, ("dear", "1,5 €".replace(",", "."))], "text,price"), schema=Schema(fields=fields)
    )
    assert only(error)["kind"] == "not_a_number"


def test_a_cell_that_begins_like_a_formula_is_escaped_on_export() -> None:
    from tilth.datasets.export import problems_csv

    text = problems_csv([{"line": 3, "column": "=cmd()", "value": "+1", "message": "m", "cure": "c"}])
    assert text.splitlines()[1] == ",3,'=cmd(),'+1,m,c"
