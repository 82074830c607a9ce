"""Columns without a role are features: each read by its values, with a reason, or as the customer says."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from pydantic import ValidationError
from tilth.contract.vertical import FieldKind, Schema, SchemaField

from tilth.core.errors import Invalid  # isort: skip
from tilth.datasets.checks import target_of  # isort: skip
from tilth.datasets.features import Feature, Kind, match_all, refuse_featureless  # isort: skip
from tilth.datasets.intake import sampled  # isort: skip
from tilth.datasets.opening import open_table  # isort: skip
from tilth.datasets.profile import Column, profile  # isort: skip

LABEL = SchemaField(role="outcome", kind=FieldKind.LABEL, title="Outcome", aliases=("default", "paid"))
FEATURES = SchemaField(role="features", kind=FieldKind.COLUMNS, title="Features")
SCHEMA = Schema(fields=(FEATURES, LABEL))
ROWS = 60
SHUFFLED: list[object] = [n * 37 % ROWS for n in range(ROWS)]


def profiled(tmp_path: Path, **columns: Sequence[object]) -> list[Column]:
    path = tmp_path / "table.csv"
    rows = [",".join(map(str, cells)) for cells in zip(*columns.values(), strict=True)]
    path.write_text("\n".join([",".join(columns), *rows]) + "\n")
    table = open_table(path)
    return profile(table.columns, sampled(table))


def of(value: Callable[[int], object]) -> list[object]:
    return [value(n) for n in range(ROWS)]


AGES = of(lambda n: n % 9)
Said = dict[str, str] | None


def features(
    tmp_path: Path, columns: dict[str, list[object]], *, kinds: Said = None, said: Said = None
) -> list[Feature]:
    return match_all(SCHEMA, profiled(tmp_path, paid=of(lambda n: "yn"[n % 2]), **columns), said, kinds)[1]


@pytest.mark.parametrize(
    ("name", "values", "kind", "reason"),
    [
        ("income", of(lambda n: 1000 + n * 37 % 50), "number", "numbers only"),
        ("income", of(lambda n: "about" if n == 7 else n % 50), "number", "nearly all are numbers (59 of 60)"),
        ("income", of(lambda n: n * 37 % ROWS + 0.5), "number", "numbers only"),
        ("owner", of(lambda n: n % 2), "number", "numbers only"),
        ("since", of(lambda n: f"2026-01-{n % 28 + 1:02}"), "date", "dates only"),
        ("home", of(lambda n: ["own", "rent", ""][n % 3]), "category",
         "few values that repeat (2 distinct values in 40 rows, 4 characters on average)"),
        ("history", of(lambda n: f"paid back duly until year {n % 5}"), "category",
         "few values that repeat (5 distinct values in 60 rows, 27 characters on average)"),
        ("purpose", of(lambda n: f"for the wedding of cousin {n}"), "text",
         "texts of several words (60 distinct values in 60 rows, 28 characters on average)"),
        ("purpose", of(lambda n: f"東京都千代田区の第{n}号室の改装工事と新しい家具のため"), "text",
         "texts of several words (60 distinct values in 60 rows, 27 characters on average)"),
        ("town", of(lambda n: f"town{n % 40}"), "category",
         "values that repeat (40 distinct values in 60 rows, 6 characters on average)"),
        ("reference", of(lambda n: f"{(n + 171) ** 17:032x}"), "ignore", "no value twice: an id"),
        ("reference", of(lambda n: f"ref-{max(n, 1)}"), "ignore",
         "hardly a value twice: an id (59 distinct values in 60 rows, 6 characters on average)"),
        ("n", of(lambda n: 17 + 3 * n), "ignore", "no value twice: an id"),
        ("n", of(lambda n: 900 - n), "ignore", "no value twice: an id"),
        ("loan id", SHUFFLED, "ignore", "no value twice: an id"),
        ("customerID", SHUFFLED, "ignore", "no value twice: an id"),
        ("Unnamed: 0", SHUFFLED, "ignore", "no value twice: an id"),
        ("paid_out", SHUFFLED, "number", "numbers only"),
        ("loan_id", of(lambda n: n * 37 % ROWS // 2), "number", "numbers only"),
        ("country", of(lambda _: "DE"), "ignore", "every row has the same value"),
        ("defaulted", of(lambda n: "x" if n % 2 else ""), "category",
         "few values that repeat (1 distinct values in 30 rows, 1 characters on average)"),
        ("empty", of(lambda _: " "), "ignore", "no row has a plain value"),
        ("income", of(lambda n: "NA" if n % 6 == 0 else SHUFFLED[n]), "category",
         "values that repeat (51 distinct values in 60 rows, 2 characters on average); 50 of 60 are numbers: "
         "leave the other cells empty to have it read so"),
    ],
)  # fmt: skip
def test_a_column_is_read_by_its_values_and_says_why(
    tmp_path: Path, name: str, values: list[object], kind: str, reason: str
) -> None:
    assert features(tmp_path, {name: values}) == [Feature(name, Kind(kind), reason)]


def test_what_a_role_or_the_split_has_is_no_feature(tmp_path: Path) -> None:
    found = features(tmp_path, {"split": of(lambda n: ["train", "test"][n % 2]), "age": AGES})
    assert [feature.column for feature in found] == ["age"]
    assert [feature.column for feature in features(tmp_path, {"age": AGES}, said={"outcome": "age"})] == ["paid"]


def test_what_the_customer_says_of_a_column_goes_before_its_values(tmp_path: Path) -> None:
    columns = {"branch": of(lambda n: n % 4), "loan_id": SHUFFLED, "age": AGES}
    assert features(tmp_path, columns, kinds={"branch": "category", "loan_id": "number"}) == [
        Feature("branch", Kind.CATEGORY, "named by you"),
        Feature("loan_id", Kind.NUMBER, "named by you"),
        Feature("age", Kind.NUMBER, "numbers only"),
    ]


def test_a_column_said_to_be_a_feature_is_taken_for_no_role(tmp_path: Path) -> None:
    found = profiled(tmp_path, age=AGES, default=of(lambda n: n % 2), late=of(lambda n: "yn"[n % 2]))
    matches, read = match_all(SCHEMA, found, None, {"default": "number", "age": "number"})
    assert [(match.role, match.column) for match in matches] == [("outcome", "late")]
    assert [feature.column for feature in read] == ["age", "default"]


@pytest.mark.parametrize(
    ("kinds", "said", "code", "told"),
    [
        ({"incom": "number"}, {}, "unknown_column",
         "kinds names 'incom', but the columns are 'paid', 'income'. Did you mean 'income'?"),
        ({"income": "numbr"}, {}, "unknown_kind",
         "kinds['income']: There is no kind 'numbr'; a column is read as number, category, date, text, ignore. "
         "Did you mean 'number'?"),
        ({"paid": "number"}, {"outcome": "paid"}, "two_roles",
         "columns names 'paid' for 'outcome', and kinds has it too; a column with a role has no kind."),
    ],
)  # fmt: skip
def test_a_kind_that_cannot_be_is_refused_with_what_there_is(
    tmp_path: Path, kinds: dict[str, str], said: dict[str, str], code: str, told: str
) -> None:
    with pytest.raises(Invalid) as refused:
        features(tmp_path, {"income": AGES}, kinds=kinds, said=said)
    assert (refused.value.message, refused.value.param, refused.value.reason) == (told, "kinds", code)


def test_columns_cannot_name_the_role_that_takes_them_all(tmp_path: Path) -> None:
    with pytest.raises(
        Invalid, match=re.escape('say with kinds how a column is read, e.g. kinds={"income"')
    ) as refused:
        features(tmp_path, {"income": AGES}, said={"features": "income"})
    assert (refused.value.param, refused.value.reason) == ("columns", "takes_all_columns")


def test_kinds_are_refused_where_every_column_has_a_role(tmp_path: Path) -> None:
    schema = Schema(fields=(LABEL,))
    found = profiled(tmp_path, paid=of(lambda n: n % 2), age=AGES)
    assert match_all(schema, found, None, {})[1] == []
    with pytest.raises(Invalid, match="reads only the roles outcome; leave it out") as refused:
        match_all(schema, found, None, {"age": "number"})
    assert refused.value.param == "kinds"


def test_a_table_without_a_column_to_learn_from_says_why_each_is_left_out(tmp_path: Path) -> None:
    found = features(tmp_path, {"row": of(lambda n: n), "country": of(lambda _: "DE")})
    with pytest.raises(Invalid) as refused:
        refuse_featureless(SCHEMA, found, ["paid", "row", "country"], "rows.csv")
    assert refused.value.message == (
        "rows.csv: no column to learn from was found for the role 'features' (Features); 'row' is left out: no value "
        "twice: an id; 'country' is left out: every row has the same value. Add columns, or say how one is to be read, "
        'e.g. kinds={"row": "category"}.'
    )
    optional = FEATURES.model_copy(update={"required": False})
    refuse_featureless(Schema(fields=(LABEL, optional)), found, ["paid", "row", "country"], "rows.csv")


def test_one_role_of_a_schema_takes_all_columns_and_it_is_never_the_target() -> None:
    assert target_of(SCHEMA) == LABEL
    assert SCHEMA.free_columns == FEATURES
    with pytest.raises(ValidationError, match="at most one role is of kind columns; here features, more are"):
        Schema(fields=(LABEL, FEATURES, FEATURES.model_copy(update={"role": "more"})))
