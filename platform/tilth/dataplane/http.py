"""The data plane over HTTP: one kept-alive connection per thread, messages of the contract as JSON."""

import http.client
import threading
import weakref
from collections.abc import Callable
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import urlsplit

from pydantic import ValidationError

from tilth.contract.messages import (
    EmbedReply,
    EmbedRequest,
    EventsPage,
    EventsQuery,
    Health,
    JobSpec,
    JobStatus,
    LoadReply,
    LoadRequest,
    Message,
    PredictReply,
    PredictRequest,
    StopRequest,
)
from tilth.dataplane.faults import read_fault
from tilth.dataplane.port import DataPlaneDown, DataPlaneRefused, NoTrainerFree, StopMode

M = TypeVar("M", bound=Message)

BUSY_CODES = frozenset({"no_trainer_free", "busy"})
LOAD_TIMEOUT_S = 60
GRACE_S = 5
"""Beyond a prediction's own deadline, which the data plane keeps: this is for one that hangs."""


class HttpDataPlane:
    """Implements DataPlane for the address of one data plane; safe to share between threads."""

    def __init__(self, url: str, bearer: Callable[[], str], timeout_s: float = 10) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"TILTH_DATAPLANE_URL must look like http://host:port, found {url!r}")
        self._address = (parts.hostname, parts.port or 80)
        self._prefix = parts.path.rstrip("/")
        self._bearer = bearer
        self._timeout_s = timeout_s
        self._local = threading.local()
        self._open: weakref.WeakSet[http.client.HTTPConnection] = weakref.WeakSet()

    def start(self, spec: JobSpec) -> JobStatus:
        """PUT of the whole specification; repeating it starts nothing twice."""
        return self._call("PUT", f"/jobs/{spec.job}/{spec.attempt}", JobStatus, spec)

    def events(self, job: str, attempt: int, query: EventsQuery) -> EventsPage:
        """The query is a body, since it carries a grant."""
        return self._call("POST", f"/jobs/{job}/{attempt}/events", EventsPage, query)

    def stop(self, job: str, attempt: int, mode: StopMode) -> JobStatus:
        """Idempotent."""
        return self._call("POST", f"/jobs/{job}/{attempt}/stop", JobStatus, StopRequest(mode=mode))

    def status(self, job: str, attempt: int) -> JobStatus:
        """A hint, never the truth."""
        return self._call("GET", f"/jobs/{job}/{attempt}", JobStatus)

    def load(self, request: LoadRequest) -> LoadReply:
        """May take as long as reading an adapter from storage."""
        return self._call("POST", "/deployments/load", LoadReply, request, timeout_s=LOAD_TIMEOUT_S)

    def predict(self, request: PredictRequest) -> PredictReply:
        """Within the request's own deadline."""
        timeout_s = request.deadline_ms / 1000 + GRACE_S
        return self._call("POST", "/predictions", PredictReply, request, timeout_s=timeout_s)

    def embed(self, request: EmbedRequest) -> EmbedReply:
        """Within the request's own deadline."""
        timeout_s = request.deadline_ms / 1000 + GRACE_S
        return self._call("POST", "/embeddings", EmbedReply, request, timeout_s=timeout_s)

    def health(self) -> Health:
        """Answers in milliseconds."""
        return self._call("GET", "/health", Health)

    def close(self) -> None:
        """Closes the connections of all threads; the next call opens one again."""
        for connection in self._open:
            connection.close()

    def _call(
        self, method: str, path: str, shape: type[M], body: Message | None = None, timeout_s: float | None = None
    ) -> M:
        status, content = self._exchange(method, path, body, timeout_s or self._timeout_s)
        if status >= HTTPStatus.BAD_REQUEST:
            raise self._error(status, content)
        try:
            return shape.model_validate_json(content)
        except ValidationError as cause:
            raise DataPlaneDown(f"{method} {path} was answered with something else than {shape.__name__}") from cause

    def _exchange(self, method: str, path: str, body: Message | None, timeout_s: float) -> tuple[int, bytes]:
        """One request; a connection that the other side closed meanwhile is opened anew, once."""
        headers = {"Authorization": f"Bearer {self._bearer()}", "Content-Type": "application/json"}
        content = body.model_dump_json().encode() if body else None
        for fresh in (False, True):
            connection = self._connection(fresh, timeout_s)
            kept = connection.sock is not None
            try:
                connection.request(method, self._prefix + path, content, headers)
                reply = connection.getresponse()
                return reply.status, reply.read()
            except (OSError, http.client.HTTPException) as cause:
                connection.close()
                if fresh or not kept or isinstance(cause, TimeoutError):
                    raise DataPlaneDown(
                        f"the data plane at {self._address[0]}:{self._address[1]}: {cause!r}"
                    ) from cause
        raise AssertionError("the loop above returns or raises")

    def _connection(self, fresh: bool, timeout_s: float) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None or fresh:
            connection = self._local.connection = http.client.HTTPConnection(*self._address)
            self._open.add(connection)
        connection.timeout = timeout_s
        if connection.sock is not None:
            connection.sock.settimeout(timeout_s)
        return connection

    def _error(self, status: int, content: bytes) -> Exception:
        fault = read_fault(content, status)
        match status:
            case HTTPStatus.SERVICE_UNAVAILABLE if fault.code in BUSY_CODES:
                return NoTrainerFree(fault.message)
            case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN | HTTPStatus.TOO_MANY_REQUESTS:
                return DataPlaneDown(f"the data plane does not let us in: {fault.message}")
            case _ if status < HTTPStatus.INTERNAL_SERVER_ERROR:
                return DataPlaneRefused(fault.message, code=fault.code)
        return DataPlaneDown(f"the data plane answered {status}: {fault.message}")
