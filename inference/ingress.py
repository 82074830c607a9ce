"""What the data plane answers over HTTP: checks the token, reads the message, asks the pool or a host. No Ray in it."""

import asyncio
import re
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from tilth.contract.errors import GrantRefused, SealBroken
from tilth.contract.messages import (
    EmbedRequest,
    EventsPage,
    EventsQuery,
    Health,
    JobSpec,
    JobState,
    JobStatus,
    LoadRequest,
    Message,
    ModelRef,
    PredictRequest,
    ServedBy,
    StopRequest,
    TrainerEvent,
)

from inference.door import Door
from inference.faults import Faulty, fault
from inference.replicas import Replicas
from inference.storage import Storage

Answer = Message | Faulty
M = TypeVar("M", bound=Message)
EVENTS = TypeAdapter(list[TrainerEvent])
MOST_BYTES = 8 << 20
"""Of a request's body."""
GRACE_S = 5.0
"""Beyond a request's deadline: a host keeps that by itself, unless it hangs."""
ATTEMPT = re.compile("[0-9]{1,9}")
SPOOLED = re.compile("([0-9]{1,12})[.]json")


class TooLarge(Exception):
    """A body over MOST_BYTES."""


class Ingress:
    """One for each process; ``pool`` is Ray's handle, or what has its methods' ``remote``; ``hosts`` are by base."""

    def __init__(self, key: Ed25519PublicKey, pool: Any, hosts: Mapping[str, Replicas], small: Replicas) -> None:
        self._door = Door(key)
        self._storage = Storage(key)
        self._pool = pool
        self._hosts = dict(hosts)
        self._small = small

    async def answer(self, request: Request) -> Response:
        """Answers one request."""
        if refused := self._door.refusal(request.headers.getlist("authorization")):
            return _rendered(refused)
        try:
            return _rendered(await self._routed(request))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            return _rendered(fault(422, "bad_message", f"{place or 'the body'}: {first['msg']}"))
        except GrantRefused as error:
            return _rendered(fault(403, "grant_refused", str(error)))
        except SealBroken as error:
            return _rendered(fault(422, "seal_broken", str(error)))
        except TooLarge:
            return _rendered(fault(413, "too_large", f"the body is over {MOST_BYTES >> 20} MiB"))
        except ClientDisconnect:
            return Response(status_code=499)

    async def _routed(self, request: Request) -> Answer:
        match request.method, request.url.path.strip("/").split("/"):
            case "GET", ["health"]:
                return await self._health()
            case "POST", ["predictions"]:
                return await self._predict(await _read(request, PredictRequest))
            case "POST", ["embeddings"]:
                return await self._embed(await _read(request, EmbedRequest))
            case "POST", ["deployments", "load"]:
                return await self._load(await _read(request, LoadRequest))
            case "PUT", ["jobs", job, attempt] if ATTEMPT.fullmatch(attempt):
                return await self._start(job, int(attempt), await _read(request, JobSpec))
            case "GET", ["jobs", job, attempt] if ATTEMPT.fullmatch(attempt):
                return await self._status(job, int(attempt))
            case "POST", ["jobs", job, attempt, "events"] if ATTEMPT.fullmatch(attempt):
                return await self._events(job, int(attempt), await _read(request, EventsQuery))
            case "POST", ["jobs", job, attempt, "stop"] if ATTEMPT.fullmatch(attempt):
                wish = await _read(request, StopRequest)
                return await self._pool.stop.remote(job, int(attempt), wish.mode)  # type: ignore[no-any-return]
        return fault(404, "no_such_route", f"{request.method} {request.url.path} is not part of the data plane")

    async def _health(self) -> Health:
        return Health(ready=True, base_models=tuple(self._hosts), trainers_free=await self._pool.free.remote())

    async def _predict(self, message: PredictRequest) -> Answer:
        host = self._host(message.model)
        if host is None:
            return fault(422, "no_such_base", f"no host for the base model {message.model.base_model}")
        return await _in_time(host.ask("predict", message.model.digest, message), message.deadline_ms)

    def _host(self, model: ModelRef) -> Replicas | None:
        """Whole models have one of their own; None for a base that is not on offer."""
        return self._small if model.served_by is ServedBy.WHOLE else self._hosts.get(model.base_model)

    async def _embed(self, message: EmbedRequest) -> Answer:
        if message.model is not None and message.model.served_by is ServedBy.WHOLE:
            return fault(
                422, "no_encoder", "this model has a host of its own; vectors come from adapters of a shared base"
            )
        host = self._hosts.get(message.base_model)
        if host is None or (message.model is not None and message.model.base_model != message.base_model):
            return fault(422, "no_such_base", f"no host for the base model {message.base_model}")
        key = message.model.digest if message.model is not None else message.flow  # the base itself is everywhere
        return await _in_time(host.ask("embed", key, message), message.deadline_ms)

    async def _load(self, message: LoadRequest) -> Answer:
        host = self._host(message.model)
        if host is None:
            return fault(422, "no_such_base", f"no host for the base model {message.model.base_model}")
        return await host.ask("load", message.model.digest, message)  # type: ignore[no-any-return]

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
        spooled = [(found, name) for name in self._storage.names(query.grant) if (found := SPOOLED.fullmatch(name))]
        wanted = [name for found, name in spooled if int(found[1]) > query.after]
        bodies = [self._storage.read(query.grant, name) for name in wanted[: query.limit]]
        return tuple(event for body in bodies for event in EVENTS.validate_json(body))


async def _in_time(asked: Coroutine[Any, Any, Answer], deadline_ms: int) -> Answer:
    try:
        async with asyncio.timeout(deadline_ms / 1000 + GRACE_S):
            return await asked
    except TimeoutError:
        return fault(503, "overloaded", "the host did not answer before the request's deadline")


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
            raise TooLarge
    return shape.model_validate_json(bytes(body))
