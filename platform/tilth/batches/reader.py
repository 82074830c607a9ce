"""Reads the files of new batches in a limited child, keeps their lines as chunks, or fails them with what is wrong."""

from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from tilth.batches.items import most_units, unpacked
from tilth.batches.leftovers import remove_objects
from tilth.batches.models import Batch
from tilth.batches.places import chunk_path
from tilth.batches.queue import batches_to_read
from tilth.batches.requests import MOST_BYTES
from tilth.batches.selectors import batch_get
from tilth.batches.services import Extent, batch_refused, batch_validated
from tilth.batches.states import State
from tilth.batches.targets import Target, target_find
from tilth.contract.errors import SealBroken
from tilth.contract.registry import vertical
from tilth.core import storage
from tilth.core.clock import now
from tilth.core.crash import crash_point
from tilth.core.errors import Invalid, NotFound, TilthError
from tilth.core.loops import Crew
from tilth.datasets.models import File
from tilth.datasets.sandbox import run_child
from tilth.datasets.selectors import file_get
from tilth.registry.selectors import learned_from

PATIENCE_S = 0.5
MODULE = "tilth.batches.child"


class Faulty(Exception):
    """A file whose lines are wrong; ``errors`` says which and how, in OpenAI's form."""

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        super().__init__(f"{len(errors)} faults")
        self.errors = errors


class Reader:
    """Reading twice gives the same chunks."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    def step(self) -> None:
        """One new batch of each organisation."""
        self._crew.work({batch: partial(self.read, tenant, batch) for tenant, batch in batches_to_read()}, PATIENCE_S)

    def read(self, tenant: UUID, batch: UUID) -> None:
        """One batch; raises only what says nothing of its file."""
        asked = batch_get(tenant=tenant, batch=batch)
        if asked.state != State.VALIDATING:
            return
        try:
            _refuse_late(asked)
            self._read(asked)
        except Faulty as faulty:
            batch_refused(tenant=tenant, batch=batch, errors=faulty.errors)
        except (Invalid, NotFound) as error:
            batch_refused(tenant=tenant, batch=batch, errors=[_fault(error)])

    def _read(self, asked: Batch) -> None:
        tenant, batch = asked.tenant_id, asked.id
        file = _file(asked)
        target = target_find(tenant=tenant, endpoint=asked.endpoint, model=asked.model) if asked.rows else None
        with storage.scratch_folder() as at:
            report = self._chunked(asked, file, target, at)
            target = target or _target(asked, report)
            first = unpacked((at / "chunks" / "0").read_bytes())
            for number in range(report["chunks"]):
                storage.put_file(chunk_path(tenant, batch, number), at / "chunks" / str(number))
        crash_point("read.stored")
        extent = Extent(report["lines"], report["chunks"], most_units(first, target.unit))
        model = asked.model or report["model"]
        if not batch_validated(tenant=tenant, batch=batch, model=model, target=target, extent=extent):
            remove_objects(tenant=tenant, batch=batch)
        crash_point("read.committed")

    def _chunked(self, asked: Batch, file: File, target: Target | None, at: Path) -> dict[str, Any]:
        """The child's report; its chunks lie in ``at``."""
        rows = _wish(asked, file, target) if target else None
        try:
            with storage.local_copy(file.path) as path:
                order = {"path": str(path), "endpoint": asked.endpoint, "rows": rows}
                report = run_child(order, at, module=MODULE)
        except (FileNotFoundError, SealBroken):
            raise Invalid("The bytes of the file are gone or damaged; upload it again.", code="no_bytes") from None
        if report["faults"]:
            raise Faulty(report["faults"])
        return report


def _refuse_late(asked: Batch) -> None:
    if asked.expires_at <= now():
        raise Invalid("The completion window ended before the file could be read.", code="batch_expired")


def _file(asked: Batch) -> File:
    file = file_get(tenant=asked.tenant_id, file=asked.input_file_id)
    if file.bytes > MOST_BYTES:
        message = f"The file has {file.bytes:,} bytes; a batch takes at most {MOST_BYTES:,}. Split it."
        raise Invalid(message, code="file_too_large", param="input_file_id")
    return file


def _wish(asked: Batch, file: File, target: Target) -> dict[str, Any]:
    """What the child must know of the model whose rows these are."""
    if target.served is None:
        raise Invalid("A base model alone reads no rows; name a fine-tuned model.", param="model")
    version = learned_from(tenant=asked.tenant_id, model=target.served.model)
    schema = vertical(target.served.vertical).schema_.model_dump(mode="json")
    said = {"columns": version.columns, "kinds": version.kinds, "said": asked.columns}
    return {"schema": schema, **said, "name": file.filename}


def _target(asked: Batch, report: dict[str, Any]) -> Target:
    """Of the model that the lines name."""
    try:
        return target_find(tenant=asked.tenant_id, endpoint=asked.endpoint, model=report["model"])
    except NotFound as error:
        raise Faulty([{**_fault(error), "param": "body.model", "line": report["line"]}]) from None


def _fault(error: TilthError) -> dict[str, Any]:
    return {"code": error.reason, "message": error.message, "param": error.param, "line": None}
