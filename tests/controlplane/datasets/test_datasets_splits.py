"""Splits leak nothing: equal rows and rows of one group are on one side, the newest are the test; why is told."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from random import Random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tilth.contract.vertical import FieldKind, Schema, SchemaField

from tilth.core.errors import Invalid  # isort: skip

Frozen = Callable[..., dict[str, Any]]
TEXT = SchemaField(role="text", kind=FieldKind.TEXT, title="Message")
LABEL = SchemaField(role="label", kind=FieldKind.LABEL, title="Intent")
WHO = SchemaField(role="who", kind=FieldKind.GROUP, title="Customer", required=False, aliases=("user_id",))
WHEN = SchemaField(role="day", kind=FieldKind.TIME, title="Day", required=False, aliases=("sent_at",))
SCHEMA = Schema(fields=(TEXT, LABEL, WHO, WHEN))
COLUMNS = {"text": "text", "label": "label", "who": "who", "day": "day"}
RANK = {"train": 0, "validation": 1, "test": 2}


def table(rows: Sequence[tuple[str, ...]], header: str = "text,label,who,day") -> bytes:
    return "\n".join([header, *map(",".join, rows), ""]).encode()


def messages(count: int, users: int, days: int = 28) -> list[tuple[str, ...]]:
    """All different; users in turn, three labels, days rising."""
    return [
        (f"message number {n}", "abc"[n % 3], f"u{n % users}", f"2026-03-{1 + n * days // count:02}")
        for n in range(count)
    ]


def sides(report: dict[str, Any], *columns: str) -> dict[Any, set[str]]:
    """Values → the splits that they are in."""
    found: dict[Any, set[str]] = defaultdict(set)
    for row in report["all"]:
        found[tuple(row[column] for column in columns)].add(row["split"])
    return found


def astride(report: dict[str, Any], *columns: str) -> list[Any]:
    """Values that are in more than one split."""
    return [value for value, splits in sides(report, *columns).items() if len(splits) > 1 and value != (None,)]


def drawn(seed: int, texts: int, users: int, days: int) -> bytes:
    """300 rows; the fewer texts there are, the more they repeat and join users. Some have no user or no day."""
    chance = Random(seed)
    made = []
    for _ in range(300):
        text, user, day = chance.randrange(texts), chance.randrange(-1, users), chance.randrange(days + 1)
        who = "" if user < 0 else f"u{user}"
        made.append((f"text number {text}", "xy"[text % 2], who, f"2026-02-{day:02}" if day else ""))
    return table(made)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["random", "grouped", "time"])
@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 10**6), texts=st.integers(60, 5000), users=st.integers(4, 200), days=st.integers(1, 28))
def test_whatever_the_rows_nothing_that_belongs_together_is_on_two_sides(
    frozen: Frozen, split: str, seed: int, texts: int, users: int, days: int
) -> None:
    rows = drawn(seed, texts, users, days)
    try:
        report = frozen(rows, schema=SCHEMA, columns=COLUMNS, split=split, seed=seed, accept_bad_rows=True)
    except Invalid as refused:
        assert refused.reason == "cannot_split"  # noqa: PT017 - joined by equal texts, too few rows may be left
        assert split != "random"
        return
    assert astride(report, "text") == astride(report, "group") == []
    if split != "random":
        assert astride(report, "who") == []
    if split == "time":
        lasts: dict[Any, tuple[str, int]] = {}
        for row in report["all"]:
            day = max(row["day"] or "", lasts.get(row["group"], ("", 0))[0])
            lasts[row["group"]] = (day, RANK[row["split"]])
        borders = sorted(lasts.values())
        assert [side for _, side in borders] == sorted(side for _, side in borders)
        assert len({day for day, _ in borders}) == len(set(borders))


def test_with_a_column_of_users_each_of_them_is_on_one_side_and_sizes_are_as_wanted(frozen: Frozen) -> None:
    report = frozen(table(messages(600, users=60)), schema=SCHEMA, split="grouped")
    assert astride(report, "who") == []
    assert report["splits"] == {"train": 480, "validation": 60, "test": 60}
    assert report["split"] == {
        "how": "grouped", "why": "by the column 'who': all rows of one are on the same side", "said": True,
        "group": "who", "time": None, "given": [], "groups": {"train": 48, "validation": 6, "test": 6},
    }  # fmt: skip


def test_groups_of_very_different_sizes_still_give_every_split_its_share_of_every_label(frozen: Frozen) -> None:
    sizes = [60, 45, 30, 30, 20, 15, 12, 10, 9, 8, 7, 6, 6, 5, 5, *([4] * 10), *([2] * 30), *([1] * 32)]
    users = [user for user, size in enumerate(sizes) for _ in range(size)]
    rows = [(f"message number {n}", "abcd"[n % 4], f"u{user}") for n, user in enumerate(users)]
    report = frozen(table(rows, "text,label,who"), schema=SCHEMA)
    shares = {split: count / len(rows) for split, count in report["splits"].items()}
    assert shares == pytest.approx({"train": 0.8, "validation": 0.1, "test": 0.1}, abs=0.02)
    for split in RANK:
        found = [row["label"] for row in report["all"] if row["split"] == split]
        assert {label: found.count(label) / len(found) for label in "abcd"} == pytest.approx(
            dict.fromkeys("abcd", 0.25), abs=0.06
        )


def test_equal_texts_of_two_users_join_them(frozen: Frozen) -> None:
    rows = messages(300, users=60)
    joined = [(f"Thanks {n % 5}!", "a", f"u{user}", "2026-03-01") for n in range(5) for user in range(n * 4, n * 4 + 4)]
    report = frozen(table([*rows, *joined]), schema=SCHEMA, split="grouped")
    by_user = {row["who"]: row["group"] for row in report["all"]}
    assert [len({by_user[f"u{user}"] for user in range(n * 4, n * 4 + 4)}) for n in range(5)] == [1] * 5
    assert len(set(by_user.values())) == 45
    assert astride(report, "who") == astride(report, "text") == []


def test_the_newest_rows_are_the_test_and_no_day_is_on_two_sides(frozen: Frozen) -> None:
    rows = [(*row[:2], row[3]) for row in messages(560, users=9)]
    report = frozen(table(rows, "text,label,sent_at"), schema=SCHEMA)
    assert report["split"] == {
        "how": "time", "why": "by the column 'sent_at': the oldest rows are for training, the newest for test",
        "said": False, "group": None, "time": "sent_at", "given": [],
        "from": {"train": "2026-03-01", "validation": "2026-03-23", "test": "2026-03-26"},
    }  # fmt: skip
    assert astride(report, "day") == []
    assert report["splits"] == {"train": 440, "validation": 60, "test": 60}


def test_by_time_a_users_rows_go_where_the_newest_of_them_belongs(frozen: Frozen) -> None:
    rows = [(f"message number {n}", "ab"[n % 2], f"u{n // 5}", f"2026-03-{1 + n // 20:02}") for n in range(400)]
    rows.append(("a last word", "a", "u0", "2026-03-28"))
    report = frozen(table(rows), schema=SCHEMA)
    assert report["split"]["how"] == "time"
    assert sides(report, "who")[("u0",)] == {"test"}
    assert astride(report, "who") == []


def test_times_are_compared_as_moments_whatever_their_zone(frozen: Frozen) -> None:
    zones = ["2026-03-01T23:30:00-02:00", "2026-03-02T01:30:00Z", "2026-03-02T03:30:00+02:00", "2026-03-02T01:30:00"]
    rows = [(f"message number {n}", "ab"[n % 2], zones[n % 4]) for n in range(40)]
    rows += [(f"an older message {n}", "ab"[n % 2], f"2026-02-0{1 + n % 9}") for n in range(90)]
    report = frozen(table(rows, "text,label,sent_at"), schema=SCHEMA)
    assert {row["day"] for row in report["all"] if row["split"] == "test"} == {"2026-03-02T01:30:00"}


@pytest.mark.slow
def test_rows_without_a_time_count_as_the_oldest_and_rows_without_a_user_stand_alone(frozen: Frozen) -> None:
    rows = messages(300, users=50)
    bare = [(f"nobody knows {n}", "abc"[n % 3], "", "") for n in range(30)]
    report = frozen(table([*rows, *bare]), schema=SCHEMA, columns=COLUMNS)
    assert {row["split"] for row in report["all"] if row["day"] is None} == {"train"}
    grouped = frozen(table([*rows, *bare]), schema=SCHEMA, columns=COLUMNS, split="grouped")
    assert len({row["group"] for row in grouped["all"] if row["who"] is None}) == 30


@pytest.mark.slow
def test_one_user_with_nearly_all_rows_is_told_and_where_too_little_is_left_the_next_way_is_taken(
    frozen: Frozen,
) -> None:
    rows = [(f"message number {n}", "ab"[n % 2], "u0" if n < 300 else f"u{n}") for n in range(400)]
    report = frozen(table(rows, "text,label,who"), schema=SCHEMA)
    assert report["split"]["how"] == "grouped"
    (warning,) = [w for w in report["warnings"]["first"] if w["kind"] == "one_large_group"]
    assert warning["message"].startswith("75% of the rows belong together (those of one 'who', and equal rows")
    rows = [(f"message number {n}", "ab"[n % 2], "u0" if n < 390 else f"u{n}") for n in range(400)]
    report = frozen(table(rows, "text,label,who"), schema=SCHEMA)
    assert report["split"]["how"] == "random"
    (warning,) = [w for w in report["warnings"]["first"] if w["kind"] == "not_split_so"]
    assert warning["message"].startswith("not by the column 'who': 98% of the rows belong together")
    with pytest.raises(Invalid, match=r"98% of the rows belong together .* leaves too few for validation and test"):
        frozen(table(rows, "text,label,who"), schema=SCHEMA, split="grouped")


def test_by_time_training_needs_two_labels_and_a_label_that_only_came_later_is_told(frozen: Frozen) -> None:
    rows = [(f"message number {n}", "a" if n < 250 else "b", f"2026-03-{1 + n // 11:02}") for n in range(300)]
    report = frozen(table(rows, "text,label,day"), schema=SCHEMA)
    assert report["split"]["how"] == "random"
    late = [(text, "ab"[n % 2] if n < 285 else "new", day) for n, (text, _, day) in enumerate(rows)]
    report = frozen(table(late, "text,label,day"), schema=SCHEMA)
    assert (report["split"]["how"], report["warnings"]["by_kind"]) == ("time", {"unseen_label": 15})


def test_the_customers_own_split_is_kept_and_users_on_both_sides_are_told_or_taken_out_on_request(
    frozen: Frozen,
) -> None:
    train, test = messages(300, users=50), [(f"later {n}", "abc"[n % 3], f"u{n}", "2026-04-01") for n in range(10)]
    report = frozen(table(train), test=table(test), schema=SCHEMA)
    assert report["splits"]["test"] == 10
    assert report["split"]["given"] == ["test"]
    assert report["split"]["why"].startswith("test as the files say; the rest by the column 'day'")
    assert report["warnings"]["by_kind"] == {"group_in_two_splits": 60}
    report = frozen(table(train), test=table(test), schema=SCHEMA, split="grouped")
    assert (sum(report["splits"].values()), astride(report, "who")) == (250, [])


@pytest.mark.parametrize(
    ("header", "row", "role"),
    [
        ("text,label,user_id", ("hello", "a", "u{n}"), {"who": "user_id"}),
        ("text,label,who", ("hello", "a", "{m}"), {}),
        ("words,label,who", ("{n}", "a", "this is message number {n}"), {}),
        ("text,label,sent_at", ("hello", "a", "2026-01-{d:02}"), {"day": "sent_at"}),
        ("text,label,sent_at", ("hello", "a", "day {d}"), {}),
        ("text,label,sent_at", ("hello", "a", "2026-01-01"), {}),
    ],
)
def test_a_column_keeps_rows_apart_by_its_name_only_if_its_values_would_do(
    tmp_path: Any, header: str, row: tuple[str, ...], role: dict[str, str]
) -> None:
    from tilth.datasets.columns import match_columns
    from tilth.datasets.intake import sampled
    from tilth.datasets.opening import open_table
    from tilth.datasets.profile import profile

    path = tmp_path / "table.csv"
    path.write_bytes(table([tuple(c.format(n=n, m=n % 3, d=1 + n % 28) for c in row) for n in range(60)], header))
    opened = open_table(path)
    found = match_columns(SCHEMA, profile(opened.columns, sampled(opened)), None)
    assert {match.role: match.column for match in found if match.role in ("who", "day")} == role


@pytest.mark.parametrize(("split", "role"), [("grouped", "who"), ("time", "day")])
def test_a_way_without_its_column_is_refused_with_what_to_say(frozen: Frozen, split: str, role: str) -> None:
    with pytest.raises(Invalid, match=f"split='{split}' needs a column for the role '{role}'") as refused:
        frozen(table([row[:2] for row in messages(60, 6)], "text,label"), schema=SCHEMA, split=split)
    assert (refused.value.param, refused.value.reason) == ("split", "missing_role")
    bare = Schema(fields=(TEXT, LABEL))
    with pytest.raises(Invalid, match="this vertical has none"):
        frozen(table([row[:2] for row in messages(60, 6)], "text,label"), schema=bare, split=split)


@pytest.mark.slow
def test_a_long_chain_of_users_joined_by_equal_texts_is_one_group(frozen: Frozen) -> None:
    chain = [(f"message of {n // 2} and the next", "ab"[n // 2 % 2], f"u{(n + 1) // 2:04}") for n in range(4000)]
    others = [(f"another message {n}", "ab"[n % 2], f"o{n}") for n in range(4000)]
    report = frozen(table([*chain, *others], "text,label,who"), schema=SCHEMA, split="grouped")
    assert len({row["group"] for row in report["all"] if row["who"].startswith("u")}) == 1
    assert astride(report, "who") == []


def test_a_schema_has_at_most_one_group_and_one_time_and_no_role_named_as_a_frozen_column() -> None:
    twice = SchemaField(role="other", kind=FieldKind.GROUP, title="Other", required=False)
    with pytest.raises(ValueError, match="at most one role is of kind group; here who, other are"):
        Schema(fields=(TEXT, LABEL, WHO, twice))
    with pytest.raises(ValueError, match="the role 'group' needs another name"):
        Schema(fields=(TEXT, LABEL, SchemaField(role="group", kind=FieldKind.GROUP, title="Group")))


def chats(header: str = "customer_id,text,label") -> bytes:
    return table([(f"c{n % 30}", f"message number {n}", "ab"[n % 2]) for n in range(120)], header)


@pytest.mark.slow
def test_how_rows_are_split_is_told_and_corrected_before_anything_is_paid(tenant: Any, stored_file: Any) -> None:
    from tilth.datasets.checking import check_run

    body = {"vertical": "support_chat", "training_file": f"file-{stored_file(tenant, chats()).id.hex}"}
    found = {}
    for split in (None, "random"):
        wish = {**body, "split": split} if split else body
        asked = tenant.client.post("/api/datasets", wish, content_type="application/json").json()
        assert asked["options"]["split"] == split
        check_run(tenant=tenant.id, check=UUID(asked["id"].removeprefix("check-")))
        found[split] = tenant.client.get(f"/api/checks/{asked['id']}").json()
    assert found[None]["report"]["split"]["how"] == "grouped"
    assert found[None]["report"]["split"]["group"] == "customer_id"
    assert (found["random"]["report"]["split"]["how"], found["random"]["report"]["split"]["said"]) == ("random", True)
    assert found[None]["dataset"] != found["random"]["dataset"]


def test_an_unknown_way_is_refused_at_once(tenant: Any, stored_file: Any) -> None:
    body = {"vertical": "support_chat", "training_file": f"file-{stored_file(tenant, chats()).id.hex}", "split": "luck"}
    answer = tenant.client.post("/api/datasets", body, content_type="application/json")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "split")


@pytest.mark.slow
def test_a_jobs_split_reaches_its_frozen_version(tenant: Any, stored_file: Any) -> None:
    from tilth.core.loops import Crew
    from tilth.core.scope import tenant_scope
    from tilth.training.models import Job
    from tilth.training.orders import JobIn, order_of
    from tilth.training.services import job_create
    from tilth.training.validator import Validator

    file = stored_file(tenant, chats())
    body = JobIn(data={"model": "minilm-l6", "training_file": f"file-{file.id.hex}", "split": "random"})
    body.is_valid(raise_exception=True)
    job = job_create(tenant=tenant.id, by=tenant.principal, order=order_of(dict(body.validated_data)))
    Validator(Crew(1, "test")).validate(tenant.id, job)
    with tenant_scope(tenant.id):
        found = Job.objects.select_related("version").get(id=job)
        assert found.version is not None, found.error
        assert (found.version.options["split"], found.version.report["split"]["how"]) == ("random", "random")


@pytest.mark.slow
def test_a_files_page_says_how_its_rows_will_be_split(tenant: Any, stored_file: Any) -> None:
    from tilth.datasets.services import file_check

    file = stored_file(tenant, chats())
    file_check(tenant=tenant.id, file=file.id)
    page = tenant.browser.get(f"/files/file-{file.id.hex}").content.decode()
    assert "Rows are split by the column &#x27;customer_id&#x27;: all rows of one are on the same side." in page


def test_a_lenders_customers_and_dates_keep_rows_apart_and_are_no_features(frozen: Frozen) -> None:
    from tilth.contract.registry import vertical

    rows = [
        (f"c{n % 40}", f"2025-{1 + n // 25:02}-01", f"{1000 + n * 37 % 997}", ["new", "known"][n % 2], "yn"[n // 2 % 2])
        for n in range(300)
    ]
    report = frozen(
        table(rows, "client_id,application_date,income,customer,default"), schema=vertical("credit_risk").schema_
    )
    assert {match["role"]: match["column"] for match in report["columns"]} == {
        "default": "default", "customer": "client_id", "date": "application_date",
    }  # fmt: skip
    assert {feature["column"]: feature["kind"] for feature in report["features"]} == {
        "income": "number", "customer": "category",
    }  # fmt: skip
