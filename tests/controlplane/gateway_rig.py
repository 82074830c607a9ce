"""A real gateway behind uvicorn over the faked data plane, models without a job behind them, and its sums in SQL."""

import http.client
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
from tilth.core.clock import now
from tilth.dataplane.access import grants
from tilth.dataplane.fake_predictions import FakePredictions
from tilth.dataplane.keys import signing_key
from tilth.dataplane.tokens import Tokens
from tilth.gateway.app import Gateway
from tilth.gateway.upstream import Upstream

DIGEST = "sha256:" + "ab" * 32


class Served:
    """An ASGI app that makes its gateway inside its event loop."""

    def __init__(self, database_url: str, plane: str) -> None:
        self._database_url = database_url
        self._plane = plane
        self.gateway: Gateway | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            assert self.gateway is not None
            await self.gateway(scope, receive, send)

    async def _lifespan(self, receive: Any, send: Any) -> None:
        self.gateway = Gateway(self._database_url, Upstream(self._plane, Tokens(signing_key()), grants()))
        await receive()
        await self.gateway.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.gateway.stop()
        await send({"type": "lifespan.shutdown.complete"})


@dataclass
class Stack:
    """The gateway at ``url``, and the fake behind it."""

    url: str
    plane: FakePredictions
    database: Any

    def ask(
        self, key: str, model: str = "ft:test", *, rows: int = 1, retry: int = 0, body: bytes = b"", text: str = "hello"
    ) -> "Answer":
        body = body or json.dumps({"model": model, "inputs": [{"text": text}] * rows}).encode()
        return send(self.url, "POST", "/v1/predictions", key, body, {"x-stainless-retry-count": str(retry)})


@dataclass
class Answer:
    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def code(self) -> str:
        return str(self.body["error"]["code"])


def send(url: str, method: str, path: str, key: str, body: bytes, headers: dict[str, str] | None = None) -> Answer:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        connection.request(method, path, body, {"Authorization": f"Bearer {key}", **(headers or {})})
        answer = connection.getresponse()
        return Answer(answer.status, json.loads(answer.read()), dict(answer.getheaders()))
    finally:
        connection.close()


def deploy(db: psycopg.Connection, tenant: Any, name: str = "ft:test", digest: str = DIGEST) -> None:
    """Makes a name answer with a digest, without a job behind it: how models are made is tested elsewhere."""
    model = uuid4()
    with db.transaction():
        db.execute("SET LOCAL session_replication_role = replica")
        insert(
            db, "registry_model", id=model, tenant_id=tenant.id, created_at=now(), name=name, job_id=uuid4(),
            version_id=uuid4(), version_sha256="", vertical="support_chat", base_model="minilm-l6",
            base_revision="", path=f"tenants/{tenant.id.hex}/jobs/m/", digest=digest, rung="probe", metrics="{}",
            report="{}", card="", served_by="stacked",
        )  # fmt: skip
        insert(
            db, "serving_deployment", id=uuid4(), tenant_id=tenant.id, created_at=now(), name=name,
            model_id=model,
        )  # fmt: skip


def insert(db: psycopg.Connection, table: str, **row: Any) -> None:
    places = ", ".join(["%s"] * len(row))
    db.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})".encode(), list(row.values()))


def events(db: psycopg.Connection, tenant: Any) -> list[tuple[str, int]]:
    return db.execute(
        "SELECT event_id, quantity FROM usage_usageevent WHERE tenant_id = %s ORDER BY id", [tenant.id]
    ).fetchall()


def held(db: psycopg.Connection, tenant: Any) -> list[tuple[int, int]]:
    """(held, sum of holds) of each budget where they differ or are not zero."""
    found = db.execute(
        """SELECT held_micro_usd, (SELECT coalesce(sum(amount_micro_usd), 0)::bigint FROM usage_hold h
               WHERE b.id IN (h.budget_id, h.key_budget_id))
           FROM usage_budget b WHERE tenant_id = %s""", [tenant.id]
    ).fetchall()  # fmt: skip
    return [row for row in found if row != (0, 0)]


def eventually(condition: Callable[[], bool]) -> bool:
    ends = time.monotonic() + 10
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(0.02)
    return True


def restart_by_kill(server: Any) -> None:
    """As kill -9 of PostgreSQL and its start by the supervisor; this process's own connections are given up."""
    from django.db import connections

    server.process.kill()
    server.process.wait()
    server.start()
    connections.close_all()
    for alias in ("default", "system"):
        connections[alias].close_pool()  # type: ignore[attr-defined]
