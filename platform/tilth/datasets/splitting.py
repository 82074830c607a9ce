"""Splits the whole table: the best way that leaves something for every split, told with its reasons and its limits."""

from collections.abc import Sequence
from typing import Any

from tilth.core.errors import Invalid
from tilth.datasets.findings import Findings
from tilth.datasets.splits import How, Way
from tilth.datasets.table import Rows

LEAST_SHARE = 0.02
"""Of the training side's rows, in each split that is taken out: less says nothing of a model."""
LARGE_SHARE = 0.5
"""Of the rows in one part: told, since validation and test are then of others alone."""


def split_rows(rows: Rows, ways: Sequence[Way], seed: int, findings: Findings) -> dict[str, Any]:
    """Places all rows, and tells the report how. Raises Invalid where the way that was said leaves nothing."""
    for way in ways:
        rows.placing.connect(grouped=way.group is not None)
        done = rows.placing.place(way.how, seed)
        why_not = "" if way.how is How.RANDOM else _why_not(rows, way, done, findings)
        if not why_not:
            break
        if way.said:
            cure = "Send more rows, another column for it, or split='random'."
            raise Invalid(f"{findings.name}: {why_not}. {cure}", param="split", code="cannot_split")
        findings.warn("not_split_so", f"not {_so(way)}: {why_not}", "say with split how rows are to be split")
    _warn(rows, way, findings)
    return _told(rows, way)


def _why_not(rows: Rows, way: Way, done: bool, findings: Findings) -> str:
    """Empty if training, validation and test can do with what they got."""
    wanted = rows.placing.wanted()
    if not done:
        return f"the column {way.time!r} has too few different times for {len(wanted) + 1} splits"
    sizes, (largest, all_rows) = rows.splits(), rows.placing.largest()
    if any(sizes[split] < LEAST_SHARE * all_rows for split in wanted):
        return (
            f"{largest / all_rows:.0%} of the rows belong together {_because(way)}, which leaves too few for "
            f"{' and '.join(wanted)}"
        )
    if findings.labelled and rows.classes_of_training(findings.outside) < 2:
        return "the training rows would all have one label"
    return ""


def _because(way: Way) -> str:
    joined = f"(those of one {way.group!r}, and equal rows of several)" if way.group else "(equal rows)"
    return f"by time {joined}" if way.how is How.TIME else joined


def _so(way: Way) -> str:
    return f"by the column {way.time if way.how is How.TIME else way.group!r}"


def _warn(rows: Rows, way: Way, findings: Findings) -> None:
    if findings.several or (findings.labelled and way.how is not How.RANDOM and rows.placing.wanted()):
        _warn_unseen(rows, findings)
    if way.how is How.RANDOM or not rows.placing.wanted():
        return
    largest, all_rows = rows.placing.largest()
    if way.group and largest > LARGE_SHARE * all_rows:
        message = f"{largest / all_rows:.0%} of the rows belong together {_because(way)} and are on one side"
        findings.warn("one_large_group", message, f"is {way.group!r} the right column? If not, say which, or split")


def _warn_unseen(rows: Rows, findings: Findings) -> None:
    count, labels = rows.only_judged(findings.outside)
    if count:
        message = f"{count:,} rows of validation and test have labels that training has not: {', '.join(labels)}"
        cure = "they are not judged" if findings.several else "they count as none of the labels"
        findings.warn("unseen_label", message, f"{cure}; add rows of them for training", times=count)


def _told(rows: Rows, way: Way) -> dict[str, Any]:
    """For the report, beside the rows of each split."""
    given = [split for split in ("validation", "test") if split not in rows.placing.wanted()]
    told: dict[str, Any] = {
        "how": "given" if len(given) == 2 else way.how, "why": way.why, "said": way.said,
        "group": way.group, "time": way.time, "given": given,
    }  # fmt: skip
    if given:
        told["why"] = f"{' and '.join(given)} as the files say" + (f"; the rest {way.why}" if len(given) == 1 else "")
    if way.group:
        told["groups"] = rows.placing.parts()
    if way.how is How.TIME:
        told["from"] = rows.placing.begins()
    return told
