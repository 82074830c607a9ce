"""From files to frozen rows: each row's own checks, the whole table's, the splits, Parquet. Runs in the child."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tilth.contract.vertical import Schema
from tilth.core.errors import Invalid
from tilth.datasets.checks import target_of
from tilth.datasets.features import used_kinds
from tilth.datasets.findings import Findings
from tilth.datasets.intake import Intake, Source
from tilth.datasets.report import Problems
from tilth.datasets.splits import ways
from tilth.datasets.splitting import split_rows
from tilth.datasets.table import RowFile, Rows

PREVIEWED = 5
"""Rows of each split."""


@dataclass(frozen=True)
class Wish:
    """How rows become a version."""

    schema: Schema
    columns: Mapping[str, str] | None
    """Role → column, as far as it was said."""
    seed: int
    accept_bad_rows: bool
    kinds: Mapping[str, str] | None = None
    """Free column → kind, as far as it was said."""
    split: str | None = None
    """How rows are split, if it was said."""


def freeze(sources: Sequence[Source], wish: Wish, folder: Path, out: Path | None) -> dict[str, Any]:
    """Checks all files and writes ``out`` (None: checks only); returns the report. Raises Invalid with what is wrong.

    ``folder`` takes what does not fit into memory; ``out`` lies in it.
    """
    with RowFile(folder, wish.schema) as kept:
        intake = Intake(wish.schema, wish.columns, wish.kinds, kept)
        for source in sources:
            intake.take(source)
    target = target_of(wish.schema)
    roles = [field.role for field in intake.fields()]
    rows = Rows(folder, wish.schema, roles, target.role if target else None)
    findings = Findings(rows, sources, intake, wish.schema)
    split = ways(wish.schema, intake.matches[0], wish.split)
    findings.look(split[0])
    if findings.problems.total and not wish.accept_bad_rows:
        raise _refusal(findings.problems, intake.count, sources)
    findings.refuse_hopeless()
    told = split_rows(rows, split, wish.seed, findings)
    if out:
        rows.write(out, used_kinds(intake.features))
    return {**_report(intake, rows, findings), "split": told}


def _report(intake: Intake, rows: Rows, findings: Findings) -> dict[str, Any]:
    splits = rows.splits()
    kept = sum(splits.values())
    return {
        "files": intake.about,
        "columns": [asdict(match) for match in intake.matches[0]],
        "features": [asdict(feature) for feature in intake.features],
        "rows": {"read": intake.count, "kept": kept, "left_out": intake.count - kept},
        "splits": splits,
        "labels": rows.labels() if findings.labelled or findings.several else {},
        "problems": findings.problems.as_json(),
        "warnings": findings.warnings.as_json(),
        "preview": rows.preview(PREVIEWED),
    }


def _refusal(problems: Problems, rows: int, sources: Sequence[Source]) -> Invalid:
    names = {source.name: source.param for source in sources}
    what = f"{problems.total:,} of {rows:,} rows cannot be learned from:"
    cure = "Mend them and upload the file again, or send accept_bad_rows to go on without them."
    return Invalid(
        f"{what} {problems.told()}. {cure}",
        param=names.get(problems.first[0].file, sources[0].param),
        code="bad_rows",
        problems=problems.as_json(),
    )
