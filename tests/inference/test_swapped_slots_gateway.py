"""Weights that move under load: the real host behind the real gateway never lets another model's answer through."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID, uuid4

import httpx2 as httpx
import psycopg
import pytest
from django.conf import settings
from tilth.contract.messages import PredictRequest
from tilth.core.storage import put_stream
from tilth.dataplane.access import grants
from tilth.dataplane.fake_predictions import running
from tilth.dataplane.keys import signing_key
from tilth.dataplane.tokens import Tokens
from tilth.gateway.app import Gateway
from tilth.gateway.upstream import Upstream
from tilth.usage.models import Price

from inference.adapters.folder import read_folder
from inference.adapters.service import BaseService, MixedAnswer
from inference.engine.base_models import Base
from inference.storage import Storage

pytestmark = pytest.mark.slow

TEXTS = ["card lost", "card stolen", "lost lost card", "stolen card lost"]


class Plane:
    """The data plane's predictions without Ray: the host's own service behind HTTP."""

    def __init__(self, service: BaseService) -> None:
        self.service = service

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        message = PredictRequest.model_validate_json((await receive())["body"])
        try:
            status, body = 200, (await self.service.predict(message)).model_dump_json().encode()
        except MixedAnswer as error:
            fault = {"error": {"code": "digest_mismatch", "message": str(error)}}
            status, body = 503, json.dumps(fault).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def swap(self, one: str, two: str) -> None:
        """Exchanges two slots' rows between two forwards, as a bug of ours or a bit gone wrong would."""
        slots = self.service.pool._slots
        rows, pair = self.service.model.table.rows, [slots[one].number, slots[two].number]

        def exchange() -> None:
            rows[pair] = rows[pair[::-1]]

        self.service._batcher._thread.submit(exchange).result()


@pytest.fixture
def plane(tiny: Base) -> Plane:
    return Plane(BaseService(tiny, Storage(signing_key().public_key()), slots=4))


@pytest.fixture
def deployed(make_files: Any, sums_db: psycopg.Connection) -> Callable[..., str]:
    """Puts a random adapter into storage under a name that answers; returns its digest."""

    def make(tenant: UUID, name: str, seed: int) -> str:
        files, path, model = make_files(seed)[0], f"tenants/{tenant.hex}/jobs/{seed}/", uuid4()
        for file, data in files.items():
            put_stream(path + file, [data])
        digest = read_folder(files).digest
        with sums_db.transaction():
            sums_db.execute("SET LOCAL session_replication_role = replica")
            sums_db.execute(
                "INSERT INTO registry_model (id, tenant_id, created_at, name, job_id, version_id, version_sha256,"
                " vertical, base_model, base_revision, path, digest, rung, metrics, report, card, served_by)"
                " VALUES (%s, %s, now(), %s, %s, %s, '', 'support_chat', 'minilm-l6', '', %s, %s, 'lora', '{}',"
                " '{}', '', 'stacked')",
                [model, tenant, name, uuid4(), uuid4(), path, digest],
            )
            sums_db.execute(
                "INSERT INTO serving_deployment (id, tenant_id, created_at, name, model_id)"
                " VALUES (%s, %s, now(), %s, %s)",
                [uuid4(), tenant, name, model],
            )
        return digest

    return make


@dataclass(frozen=True)
class Answer:
    model: str
    text: str
    status: int
    body: Any


class Load:
    """Customers that ask both models without a pause, each text in turn."""

    def __init__(self, gateway: Gateway, key: str, models: list[str]) -> None:
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(cast("Any", gateway)), base_url="http://tilth")
        self._headers = {"Authorization": f"Bearer {key}"}
        self._models = models

    async def ask(self, model: str, text: str) -> Answer:
        body = {"model": model, "inputs": [{"text": text}]}
        reply = await self._client.post("/v1/predictions", json=body, headers=self._headers)
        return Answer(model, text, reply.status_code, reply.json())

    async def rounds(self, count: int) -> list[Answer]:
        """Every text to every model at once, so many times."""
        asked = [(model, text) for text in TEXTS for model in self._models]
        return [a for _ in range(count) for a in await asyncio.gather(*(self.ask(*each) for each in asked))]


def test_swapped_slots_under_load_are_refused_and_mended(
    plane: Plane, deployed: Callable[..., str], tenant: Any, sums_db: psycopg.Connection
) -> None:
    digests = {name: deployed(tenant.id, name, seed) for seed, name in enumerate(("ft:one", "ft:two"))}
    Price.objects.create(unit="prediction.tokens", title="Tokens read", micro_usd=20, per_quantity=1000)

    async def story(url: str) -> tuple[list[Answer], list[Answer]]:
        gateway = Gateway(settings.ENV.database_url, Upstream(url, Tokens(signing_key()), grants()))
        await gateway.start()
        load = Load(gateway, tenant.key, list(digests))
        truth = await load.rounds(1)
        running = asyncio.create_task(load.rounds(30))
        await asyncio.sleep(0.2)
        assert not running.done()
        await asyncio.to_thread(plane.swap, *digests.values())
        after = await running
        await gateway.stop()
        return truth, after

    with running(plane) as url:
        truth, after = asyncio.run(story(url))
    right = {(a.model, a.text): a.body["data"][0]["probabilities"] for a in truth}
    refused = [a for a in after if a.status != 200]
    assert {(a.status, a.body["error"]["code"]) for a in refused} == {(503, "digest_mismatch")}
    for each in after:
        if each.status == 200:
            assert each.body["digest"] == digests[each.model]
            assert each.body["data"][0]["probabilities"] == pytest.approx(right[each.model, each.text], abs=1e-4)
    assert [a.status for a in after[-8:]] == [200] * 8, "the host never noticed that its weights had moved"
    stored = sums_db.execute("SELECT count(*) FROM usage_usageevent WHERE tenant_id = %s", [tenant.id]).fetchone()
    assert stored == (len(truth) + len(after) - len(refused),)
