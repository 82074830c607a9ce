"""A worker without its process for batches: reader and runner stepped by hand, over the fake data plane."""

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg
from tilth.core.clock import now
from tilth.dataplane.access import grants
from tilth.dataplane.fake import FakeDataPlane
from tilth.dataplane.port import DataPlane

from tests.controlplane.gateway_rig import DIGEST, insert

MODEL = "ft:test"


def request_line(number: int, **changes: Any) -> dict[str, Any]:
    """A line of a file of requests."""
    body = {"model": MODEL, "inputs": [{"text": f"message {number}"}]}
    return {"custom_id": f"request-{number}", "method": "POST", "url": "/v1/predictions", "body": body, **changes}


def jsonl(*lines: Any) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def lines_of(count: int) -> bytes:
    return jsonl(*(request_line(number) for number in range(count)))


@dataclass
class Rig:
    """Everything that moves batches on."""

    plane: FakeDataPlane
    db: psycopg.Connection

    def __post_init__(self) -> None:
        self.reach(self.plane)

    def reach(self, plane: DataPlane) -> None:
        """From now on the worker calls this one."""
        from tilth.batches.reader import Reader
        from tilth.batches.runner import Runner
        from tilth.core.loops import Crew

        self.reader = Reader(Crew(1, "test"))
        self.runner = Runner(plane, grants(), Crew(2, "test"))

    def file(self, tenant: Any, content: bytes, *, filename: str = "batch.jsonl", purpose: str = "batch") -> UUID:
        """Uploaded."""
        from tilth.core.ids import uuid7
        from tilth.core.storage import put_stream
        from tilth.datasets.services import file_create, file_path

        file = uuid7()
        stored = put_stream(file_path(tenant.id, file), [content])
        by = tenant.principal
        return file_create(tenant=tenant.id, by=by, file=file, filename=filename, purpose=purpose, stored=stored).id

    def create(self, tenant: Any, content: bytes = b"", **order: Any) -> UUID:
        """A batch whose file is still to be read."""
        from tilth.batches.services import Order, batch_create
        from tilth.batches.states import Endpoint

        by = order.pop("by", tenant.principal)
        order.setdefault("input_file", self.file(tenant, content, filename=order.pop("filename", "batch.jsonl")))
        order.setdefault("endpoint", Endpoint.PREDICTIONS)
        return batch_create(tenant=tenant.id, by=by, order=Order(**order))

    def begun(self, tenant: Any, content: bytes = b"", **order: Any) -> UUID:
        """A batch in progress, nothing of it answered."""
        batch = self.create(tenant, content, **order)
        self.reader.read(tenant.id, batch)
        return batch

    def done(self, tenant: Any, content: bytes = b"", **order: Any) -> Any:
        """The row of a batch that has ended."""
        batch = self.begun(tenant, content, **order)
        self.finish(tenant, batch)
        return self.batch(tenant, batch)

    def chunk(self, tenant: Any, batch: UUID) -> bool:
        """One chunk, or the end."""
        return self.runner._move(self.batch(tenant, batch))

    def finish(self, tenant: Any, batch: UUID) -> None:
        """To the end."""
        while self.chunk(tenant, batch):
            pass
        self.chunk(tenant, batch)

    def batch(self, tenant: Any, batch: UUID) -> Any:
        """The row."""
        from tilth.batches.selectors import batch_get

        return batch_get(tenant=tenant.id, batch=batch)

    def content(self, tenant: Any, file: UUID | None) -> list[dict[str, Any]]:
        """The lines of a result file; none without one."""
        from tilth.core import storage
        from tilth.datasets.selectors import file_get

        if file is None:
            return []
        return [json.loads(line) for line in storage.read(file_get(tenant=tenant.id, file=file).path).splitlines()]

    def output(self, tenant: Any, batch: Any) -> list[dict[str, Any]]:
        return self.content(tenant, batch.output_file_id)

    def errors(self, tenant: Any, batch: Any) -> list[dict[str, Any]]:
        return self.content(tenant, batch.error_file_id)

    def events(self, tenant: Any) -> list[tuple[str, str, int]]:
        """(source, event id, quantity) of everything that was billed."""
        return self.db.execute(
            "SELECT source, event_id, quantity FROM usage_usageevent WHERE tenant_id = %s ORDER BY id", [tenant.id]
        ).fetchall()

    def budget(self, tenant: Any, micro_usd: int) -> None:
        """What the organisation may spend this month."""
        from tilth.usage.services import budget_change

        budget_change(tenant=tenant.id, by=tenant.principal, limit_micro_usd=micro_usd)


def deploy_table(db: psycopg.Connection, tenant: Any) -> None:
    """``ft:credit``."""
    kinds = {"amount": "number", "branch": "category"}
    deploy_learned(db, tenant, "ft:credit", "credit_risk", {"default": "defaulted"}, kinds)


def deploy_learned(
    db: psycopg.Connection, tenant: Any, name: str, vertical: str, columns: dict[str, str], kinds: dict[str, str]
) -> None:
    """Without a job behind it, but with the version that says how its columns are read."""
    model, version = uuid4(), uuid4()
    own: dict[str, Any] = {"tenant_id": tenant.id, "created_at": now()}
    with db.transaction():
        db.execute("SET LOCAL session_replication_role = replica")
        insert(
            db, "datasets_datasetversion", id=version, **own, recipe=uuid4().hex * 2, training_file_id=uuid4(),
            vertical=vertical, columns=json.dumps(columns), kinds=json.dumps(kinds), options="{}", path="", sha256="",
            bytes=1, rows=1, splits="{}", report="{}",
        )  # fmt: skip
        insert(
            db, "registry_model", id=model, **own, name=name, job_id=uuid4(), version_id=version, version_sha256="",
            vertical=vertical, base_model="minilm-l6", base_revision="", digest=DIGEST, rung="linear", metrics="{}",
            path=f"tenants/{tenant.id.hex}/jobs/m/", report="{}", card="", served_by="whole",
        )  # fmt: skip
        insert(db, "serving_deployment", id=uuid4(), **own, name=name, model_id=model)
