"""What a finished job tells of its way as files: metrics as OpenAI's CSV, TensorBoard's runs, a CSV of candidates."""

import csv
import io
import json
import math
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from tilth.contract.messages import EventKind
from tilth.core import storage
from tilth.core.ids import uuid7
from tilth.core.scope import in_tenant
from tilth.core.storage import StoredObject
from tilth.datasets.export import escaped
from tilth.datasets.services import file_path
from tilth.training.event_file import Step, event_file
from tilth.training.models import Event

FILES = {
    "result_file": "step_metrics.csv",
    "leaderboard_file": "leaderboard.csv",
    "tensorboard_file": "tensorboard.zip",
}
"""Field of the job → name of the file."""
FIRST = ("step", "rung", "train_loss", "valid_loss", "valid_accuracy")
LEFT_OUT = frozenset({"progress", "eta_s", "total_steps"})
"""Of the work, not of the model."""
BOARD = ("candidate", "trial", "rung", "metric", "score", "low", "high", "judged_rows", "device_ms", "left_out")
ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""Of every member: the same job gives the same bytes."""
FLOAT_MAX = 3.4028235e38

Facts = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """The bytes are stored under the file's id; its row is made together with the job's end."""

    file: UUID
    filename: str
    stored: StoredObject


def results_store(*, tenant: UUID, job: UUID, report: object) -> dict[str, Results]:
    """Writes the files of a job, by the job's fields; without rows they are swept away as orphans."""
    steps = results_rows(tenant=tenant, job=job)
    contents = {
        "result_file": results_csv([facts for _, facts in steps]),
        "leaderboard_file": leaderboard_csv(report),
        "tensorboard_file": tensorboard_zip(steps),
    }
    return {field: _stored(tenant, FILES[field], content) for field, content in contents.items() if content}


def _stored(tenant: UUID, filename: str, content: bytes) -> Results:
    file = uuid7()
    return Results(file, filename, storage.put_stream(file_path(tenant, file), [content]))


@in_tenant
def results_rows(*, tenant: UUID, job: UUID) -> list[tuple[datetime, Facts]]:
    """One for each step of each rung, in the order of their first report; a step done again after a resume counts."""
    rows: dict[tuple[Any, Any], tuple[datetime, Facts]] = {}
    events = Event.objects.filter(job_id=job, kind=EventKind.METRICS).order_by("number")
    for at, data in events.values_list("at", "data").iterator():
        facts = {name: value for name, value in data.items() if name not in LEFT_OUT and not isinstance(value, dict)}
        where = (str(facts.get("rung")), str(facts.get("step")))
        rows[where] = (at, {**(rows[where][1] if where in rows else {}), **facts})
    return list(rows.values())


def results_csv(rows: list[Facts]) -> bytes:
    """With a header; the names that we know first, then what else a trainer reported."""
    return _csv(FIRST, rows)


def leaderboard_csv(report: object) -> bytes:
    """One line for each candidate that learned or was left out, then its trials; what it chose in further columns."""
    board = report.get("leaderboard") if isinstance(report, dict) else None
    lines = [line for line in board if isinstance(line, dict)] if isinstance(board, list) else []
    return _csv(BOARD, [row for line in lines for row in _board_rows(line)]) if lines else b""


def tensorboard_zip(steps: list[tuple[datetime, Facts]]) -> bytes:
    """A folder for each rung or candidate, which TensorBoard shows as a run; empty if no scalar was told."""
    runs: dict[str, list[Step]] = defaultdict(list)
    for at, facts in steps:
        step, scalars = facts.get("step"), _scalars(facts)
        if isinstance(step, int) and 0 <= step < 2**63 and scalars:
            runs[_folder(facts.get("rung"))].append(Step(at, step, scalars))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for run, told in runs.items():
            name = f"{run}/events.out.tfevents.{int(told[0].at.timestamp()):010d}.tilth"
            member = zipfile.ZipInfo(name, ZIP_TIME)
            archive.writestr(member, event_file(told), zipfile.ZIP_DEFLATED)
    return packed.getvalue() if runs else b""


def _scalars(facts: Mapping[str, Any]) -> dict[str, float]:
    """Numbers that a 32-bit float holds."""
    named = {name: value for name, value in facts.items() if name != "step" and _is_number(value)}
    return {name: float(value) for name, value in named.items() if abs(value) <= FLOAT_MAX}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _folder(rung: object) -> str:
    """A run's name as a folder's, whatever a trainer calls it."""
    return re.sub(r"\W+", "_", str(rung or "run"))[:60]


def _board_rows(line: Mapping[str, Any]) -> Iterable[Facts]:
    """A candidate, its interval in two columns; then its trials, if it lists any."""
    facts = {name: value for name, value in line.items() if name not in ("name", "interval", "trials")}
    interval = line.get("interval")
    low, high = interval if isinstance(interval, list) and len(interval) == 2 else (None, None)
    yield {"candidate": line.get("name"), "low": low, "high": high, **facts}
    trials = line.get("trials")
    for number, trial in enumerate(trials if isinstance(trials, list) else [], 1):
        if isinstance(trial, dict):
            yield {**trial, "candidate": line.get("name"), "trial": number}


def _csv(first: tuple[str, ...], rows: list[Facts]) -> bytes:
    """With a header: those columns, then the others by name; what is no plain value is JSON."""
    others = sorted({name for row in rows for name in row} - set(first))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*first, *map(escaped, others)], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({escaped(name): _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue().encode()


def _cell(value: object) -> object:
    if isinstance(value, list | dict):
        return json.dumps(value)
    return escaped(value) if isinstance(value, str) else value
