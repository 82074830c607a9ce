"""The gateway's client of the data plane: kept-alive connections, a short-lived token, grants signed once an hour."""

import time
from http import HTTPStatus
from typing import Any

import aiohttp
import orjson
from pydantic import ValidationError

from tilth.contract.messages import PredictReply
from tilth.core.errors import Invalid, Unavailable
from tilth.dataplane.faults import read_fault
from tilth.dataplane.grants import READ_LIFE_S, Grants
from tilth.dataplane.port import DataPlaneDown
from tilth.dataplane.tokens import Tokens
from tilth.gateway.lookups import Target

DEADLINE_MS = 30_000
CONNECTIONS = 512
GRANTS = 10_000
OURS = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.TOO_MANY_REQUESTS})
"""Refusals that are no fault of the customer: our token, our grant, our address, a full house."""


class Upstream:
    """Asks for predictions at TILTH_DATAPLANE_URL."""

    def __init__(self, url: str, tokens: Tokens, grants: Grants) -> None:
        self._url = f"{url}/predictions"
        self._tokens = tokens
        self._grants = grants
        self._granted: dict[str, tuple[float, dict[str, Any]]] = {}
        self._session: aiohttp.ClientSession | None = None

    async def predict(self, flow: str, target: Target, inputs: list[dict[str, Any]]) -> PredictReply:
        """The data plane's answer; raises Invalid for what it refuses, DataPlaneDown when it fails."""
        content = orjson.dumps(
            {"flow": flow, "model": self._model(target), "inputs": inputs, "deadline_ms": DEADLINE_MS}
        )
        headers = {"Authorization": f"Bearer {self._tokens.bearer()}", "Content-Type": "application/json"}
        try:
            async with self._open().post(self._url, data=content, headers=headers) as answer:
                status, body = answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as cause:
            raise DataPlaneDown("The models cannot be reached at the moment; try again.") from cause
        if status != HTTPStatus.OK:
            raise _refused(status, body)
        return _read(body, len(inputs))

    async def close(self) -> None:
        """Lets go of the connections."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=30),
                timeout=aiohttp.ClientTimeout(total=DEADLINE_MS / 1000 + 5, sock_connect=5),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._session

    def _model(self, target: Target) -> dict[str, Any]:
        ends, model = self._granted.get(target.digest + target.path, (0.0, {}))
        if ends < time.monotonic():
            if len(self._granted) >= GRANTS:
                self._granted.clear()
            grant = self._grants.read(target.path)
            model = {
                "digest": target.digest, "folder": grant.model_dump(), "vertical": target.vertical,
                "base_model": target.base_model,
            }  # fmt: skip
            self._granted[target.digest + target.path] = (time.monotonic() + READ_LIFE_S / 2, model)
        return model


def _refused(status: int, body: bytes) -> Exception:
    fault = read_fault(body, status)
    if status in OURS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return DataPlaneDown(f"The models cannot answer at the moment ({fault.code}); try again.")
    return Invalid(fault.message, code=fault.code, param="inputs")


def _read(body: bytes, rows: int) -> PredictReply:
    try:
        reply = PredictReply.model_validate_json(body)
    except ValidationError as cause:
        raise Unavailable("The models answered nonsense; try again.", code="data_plane_down") from cause
    if len(reply.predictions) != rows:
        raise Unavailable(f"{rows} rows got {len(reply.predictions)} answers; try again.", code="data_plane_down")
    return reply
