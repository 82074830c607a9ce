"""The ingress of the data plane (Ray Serve): jobs, predictions, health; ``python -m inference.app`` deploys it."""

import asyncio
import logging
import signal
import threading
from typing import Any, TypeVar

import ray
from pydantic import TypeAdapter, ValidationError
from ray import serve
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from tilth.contract.errors import GrantRefused
from tilth.contract.messages import (
    EventsPage,
    EventsQuery,
    Health,
    JobSpec,
    JobState,
    JobStatus,
    LoadRequest,
    Message,
    PredictRequest,
    StopRequest,
    TrainerEvent,
)
from tilth.contract.registry import verticals

from inference.actors.host import Host
from inference.actors.trainer import NAMESPACE, trainer_pool
from inference.door import refusal
from inference.faults import Faulty, fault
from inference.settings import Settings, settings
from inference.storage import Storage, load_verify_key

log = logging.getLogger(__name__)

Answer = Message | Faulty
M = TypeVar("M", bound=Message)
EVENTS = TypeAdapter(list[TrainerEvent])
MOST_BYTES = 8 << 20
"""Of a request's body."""


@serve.deployment(max_ongoing_requests=2048, ray_actor_options={"num_cpus": 0.1})
class Ingress:
    """Checks the token, reads the message, asks the pool or a host, answers."""

    def __init__(self, configured: Settings, **hosts: Any) -> None:
        self._key = load_verify_key(configured.verify_key)
        self._storage = Storage(self._key)
        self._pool = trainer_pool(configured)
        self._hosts = {name.replace("__", "-"): host for name, host in hosts.items()}

    async def __call__(self, request: Request) -> Response:
        """Answers one request."""
        if refused := refusal(self._key, request.headers.get("authorization", "")):
            return _rendered(refused)
        try:
            return _rendered(await self._routed(request))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            return _rendered(fault(422, "bad_message", f"{place or 'the body'}: {first['msg']}"))
        except GrantRefused as error:
            return _rendered(fault(403, "grant_refused", str(error)))
        except ClientDisconnect:
            return Response(status_code=499)

    async def _routed(self, request: Request) -> Answer:
        match request.method, request.url.path.strip("/").split("/"):
            case "GET", ["health"]:
                return await self._health()
            case "POST", ["predictions"]:
                return await self._predict(await _read(request, PredictRequest))
            case "POST", ["deployments", "load"]:
                return await self._load(await _read(request, LoadRequest))
            case "PUT", ["jobs", job, attempt] if attempt.isdigit():
                return await self._start(job, int(attempt), await _read(request, JobSpec))
            case "GET", ["jobs", job, attempt] if attempt.isdigit():
                return await self._status(job, int(attempt))
            case "POST", ["jobs", job, attempt, "events"] if attempt.isdigit():
                return await self._events(job, int(attempt), await _read(request, EventsQuery))
            case "POST", ["jobs", job, attempt, "stop"] if attempt.isdigit():
                wish = await _read(request, StopRequest)
                return await self._pool.stop.remote(job, int(attempt), wish.mode)  # type: ignore[no-any-return]
        return fault(404, "no_such_route", f"{request.method} {request.url.path} is not part of the data plane")

    async def _health(self) -> Health:
        return Health(ready=True, base_models=tuple(self._hosts), trainers_free=await self._pool.free.remote())

    async def _predict(self, message: PredictRequest) -> Answer:
        host = self._hosts.get(message.model.base_model)
        if host is None:
            return fault(422, "no_such_base", f"no host for the base model {message.model.base_model}")
        return await host.predict.remote(message)  # type: ignore[no-any-return]

    async def _load(self, message: LoadRequest) -> Answer:
        host = self._hosts.get(message.model.base_model)
        if host is None:
            return fault(422, "no_such_base", f"no host for the base model {message.model.base_model}")
        return await host.load.remote(message)  # type: ignore[no-any-return]

    async def _start(self, job: str, attempt: int, spec: JobSpec) -> Answer:
        if (spec.job, spec.attempt) != (job, attempt):
            return fault(422, "bad_message", f"the path names {job}/{attempt}, the body {spec.job}/{spec.attempt}")
        started: JobStatus | None = await self._pool.start.remote(spec)
        return started or fault(503, "no_trainer_free", "all trainers are at work; try again in a moment")

    async def _status(self, job: str, attempt: int) -> JobStatus:
        return await self._pool.status.remote(job, attempt)  # type: ignore[no-any-return]

    async def _events(self, job: str, attempt: int, query: EventsQuery) -> EventsPage:
        status = await self._status(job, attempt)
        events = await asyncio.to_thread(self._read_events, query)
        return EventsPage(events=events, status=status)

    def _read_events(self, query: EventsQuery) -> tuple[TrainerEvent, ...]:
        wanted = [name for name in self._storage.names(query.grant) if int(name.removesuffix(".json")) > query.after]
        bodies = [self._storage.read(query.grant, name) for name in wanted[: query.limit]]
        return tuple(event for body in bodies for event in EVENTS.validate_json(body))


def _rendered(answer: Answer) -> Response:
    if isinstance(answer, Faulty):
        headers = {"Retry-After": "1"} if answer.status == 503 else {}
        return JSONResponse({"error": answer.body.model_dump()}, answer.status, headers)
    status = 202 if isinstance(answer, JobStatus) and answer.state is JobState.RUNNING else 200
    return Response(answer.model_dump_json(), status, media_type="application/json")


async def _read(request: Request, shape: type[M]) -> M:
    """The body as a message; it is read only after the door has been passed."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            break
    return shape.model_validate_json(bytes(body[:MOST_BYTES]))


def deploy(configured: Settings) -> None:
    """Starts Serve's proxy and deploys hosts and ingress; doing it again replaces what has changed."""
    serve.start(proxy_location="HeadOnly", http_options={"host": configured.host, "port": configured.port})
    offers = {offer.id: offer for face in verticals().values() for offer in face.base_models}
    hosts = {
        name.replace("-", "__"): Host.options(name=f"host-{name}").bind(offer, configured)  # type: ignore[attr-defined]
        for name, offer in offers.items()
    }
    serve.run(Ingress.bind(configured, **hosts), name="tilth", route_prefix="/")  # type: ignore[attr-defined]


def main() -> None:
    """Deploys, says so, and stays until it is told to stop."""
    logging.basicConfig(level=logging.INFO)
    configured = settings()
    stopped = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stopped.set())
    ray.init(address=configured.ray_address, namespace=NAMESPACE, log_to_driver=False)
    deploy(configured)
    print(f"data plane ready at http://{configured.host}:{configured.port}", flush=True)
    stopped.wait()
    serve.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
