"""What a finished job tells of its way as a file: OpenAI's CSV of metrics, one line for each step that was reported."""

import csv
import io
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from tilth.contract.messages import EventKind
from tilth.core import storage
from tilth.core.ids import uuid7
from tilth.core.scope import in_tenant
from tilth.core.storage import StoredObject
from tilth.datasets.services import file_path
from tilth.training.models import Event

FILENAME = "step_metrics.csv"
FIRST = ("step", "rung", "train_loss", "valid_loss", "valid_accuracy")
LEFT_OUT = frozenset({"progress", "eta_s", "total_steps"})
"""Of the work, not of the model."""


@dataclass(frozen=True)
class Results:
    """The bytes are stored under the file's id; its row is made together with the job's end."""

    file: UUID
    stored: StoredObject


def results_store(*, tenant: UUID, job: UUID) -> Results:
    """Writes the CSV of a job's metrics; without a row it is swept away as an orphan."""
    file = uuid7()
    table = results_csv(results_rows(tenant=tenant, job=job))
    return Results(file, storage.put_stream(file_path(tenant, file), [table.encode()]))


@in_tenant
def results_rows(*, tenant: UUID, job: UUID) -> list[dict[str, Any]]:
    """One for each step of each rung, in the order of their first report; a step done again after a resume counts."""
    rows: dict[tuple[Any, Any], dict[str, Any]] = {}
    events = Event.objects.filter(job_id=job, kind=EventKind.METRICS).order_by("number")
    for data in events.values_list("data", flat=True).iterator():
        facts = {name: value for name, value in data.items() if name not in LEFT_OUT and not isinstance(value, dict)}
        rows.setdefault((facts.get("rung"), facts.get("step")), {}).update(facts)
    return list(rows.values())


def results_csv(rows: list[dict[str, Any]]) -> str:
    """With a header; the names that we know first, then what else a trainer reported."""
    others = sorted({name for row in rows for name in row} - set(FIRST))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*FIRST, *others], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
