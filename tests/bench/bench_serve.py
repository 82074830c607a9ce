"""A whole request through Ray Serve (ingress, token, host, slots) beside the same model called in its own process."""

import asyncio
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import cycle
from pathlib import Path

import aiohttp
import jwt
import ray
import torch
import uvloop
from cryptography.hazmat.primitives import serialization
from ray import serve
from tilth.contract.messages import ModelRef, PredictReply, PredictRequest

from inference.actors.trainer import NAMESPACE, trainer_pool
from inference.adapters.service import BaseService
from inference.app import deploy
from inference.door import AUDIENCE
from inference.engine import limits
from inference.engine.base_models import Base
from inference.engine.precision import served_dtype
from inference.settings import Settings, settings
from tests.bench.adapter_rig import minilm
from tests.inference.adapter_world import TEXTS, make_version
from tests.inference.conftest import Place
from tests.web import free_port

NAME = "serve"
MODELS = 8
Ask = Callable[[bytes], Awaitable[bytes]]


def run(*, full: bool) -> list[dict[str, str]]:
    """Both ways with 1 client and with 32, one request of one row at a time each."""
    base, seconds = minilm(), 20.0 if full else 4.0
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        bodies = [
            body(make_version(base, place, 15 + 16 * n, rank=16, texts=()).ref, text)
            for n in range(MODELS)
            for text in TEXTS
        ]
        alone = uvloop.run(in_process(base, place, bodies, seconds))
        with data_plane(place) as configured:
            served = uvloop.run(through_serve(place, configured, bodies, seconds))
    return [line(clients, way, found, alone[clients]) for way, both in (("the model called in its process", alone), (
        "through Ray Serve", served)) for clients, found in both.items()]  # fmt: skip


def body(ref: ModelRef, text: str) -> bytes:
    """A request of one row, as the control plane sends it."""
    return PredictRequest(flow=ref.digest, model=ref, inputs=({"text": text},)).model_dump_json().encode()


async def in_process(base: Base, place: Place, bodies: list[bytes], seconds: float) -> dict[int, list[float]]:
    """The same service, without Ray and HTTP: message in, message out."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    limits.keep_freed()
    service = BaseService(base, place.storage, slots=MODELS, dtype=served_dtype("auto"))

    async def ask(content: bytes) -> bytes:
        return (await service.predict(PredictRequest.model_validate_json(content))).model_dump_json().encode()

    return {clients: await clocked(ask, bodies, clients, seconds) for clients in (1, 32)}


@contextmanager
def data_plane(place: Place) -> Iterator[Settings]:
    """Ray, the ingress and the hosts as the product deploys them, with a key of the bench's."""
    pem = place.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (place.root / "verify.pem").write_bytes(pem)
    surroundings = {
        "TILTH_DATAPLANE_PORT": str(free_port()), "TILTH_VERIFY_KEY": str(place.root / "verify.pem"),
    }  # fmt: skip
    configured = settings(surroundings)
    ray.init(num_cpus=2, namespace=NAMESPACE, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    env = os.environ | surroundings | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    try:
        deploy(configured)
        with subprocess.Popen(
            [sys.executable, "-m", "inference.entry"], env=env, stderr=subprocess.PIPE, text=True
        ) as ingress:
            assert ingress.stderr
            while "Uvicorn running" not in (said := ingress.stderr.readline()):
                if not said:
                    raise RuntimeError("the ingress ended before it listened")
            threading.Thread(target=ingress.stderr.read, daemon=True).start()
            while not ray.get(trainer_pool(configured).free.remote()):
                time.sleep(0.2)  # a trainer that is warmed takes seconds of a core
            yield configured
            ingress.terminate()
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()


async def through_serve(
    place: Place, configured: Settings, bodies: list[bytes], seconds: float
) -> dict[int, list[float]]:
    """Each request with a token, over a kept connection."""
    async with client(place, configured) as ask:
        return {clients: await clocked(ask, bodies, clients, seconds) for clients in (1, 32)}


@asynccontextmanager
async def client(place: Place, configured: Settings) -> AsyncIterator[Ask]:
    """What sends a body and reads the answer."""
    now = int(time.time())
    token = jwt.encode({"aud": AUDIENCE, "iat": now, "exp": now + 115}, place.key, algorithm="EdDSA")
    url = f"http://{configured.host}:{configured.port}/predictions"
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64)) as session:

        async def ask(content: bytes) -> bytes:
            async with session.post(url, data=content, headers=headers) as reply:
                answer = await reply.read()
                if reply.status != 200:
                    raise RuntimeError(f"the data plane answers {reply.status}: {answer[:300]!r}")
                return answer

        yield ask


async def clocked(ask: Ask, bodies: list[bytes], clients: int, seconds: float) -> list[float]:
    """Seconds of each request; the last entry is requests/s."""
    for content in bodies:  # every adapter is in its slot
        PredictReply.model_validate_json(await ask(content))
    turns, spent = cycle(bodies), list[float]()
    begun = time.perf_counter()

    async def one() -> None:
        while (started := time.perf_counter()) < begun + seconds:
            await ask(next(turns))
            spent.append(time.perf_counter() - started)

    await asyncio.gather(*(one() for _ in range(clients)))
    return [*spent, len(spent) / (time.perf_counter() - begun)]


def line(clients: int, way: str, found: list[float], alone: list[float]) -> dict[str, str]:
    """Of one way with so many clients."""
    *spent, rate = found
    return {
        "clients": str(clients), "way": way, "requests/s": f"{rate:,.0f}",
        "p50 ms": f"{1000 * statistics.median(spent):.1f}",
        "p99 ms": f"{1000 * statistics.quantiles(spent, n=100)[-1]:.1f}",
        "of in-process": f"{rate / alone[-1]:.2f}", "goal": "≥ 0.6" if clients == 32 and "Serve" in way else "",
    }  # fmt: skip
