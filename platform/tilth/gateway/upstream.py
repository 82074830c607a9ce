"""The gateway's client of the data plane: kept-alive connections, a short-lived token, grants signed once an hour."""

import asyncio
import time
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlsplit

import orjson
from pydantic import ValidationError

from tilth.contract.messages import EmbedReply, PredictReply
from tilth.core.errors import Invalid, Unavailable
from tilth.dataplane.faults import read_fault
from tilth.dataplane.grants import READ_LIFE_S, Grants
from tilth.dataplane.port import DataPlaneDown
from tilth.dataplane.tokens import Tokens
from tilth.gateway.http1 import Http1
from tilth.gateway.lookups import Target

R = TypeVar("R", PredictReply, EmbedReply)

DEADLINE_MS = 30_000
PATIENCE_S = DEADLINE_MS / 1000 + 5
"""The data plane keeps its deadline itself; this is for one that hangs."""
GRANTS = 2_000
OURS = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.TOO_MANY_REQUESTS})
"""Refusals that are no fault of the customer: our token, our grant, our address, a full house."""


class Upstream:
    """Asks for predictions and embeddings at TILTH_DATAPLANE_URL."""

    def __init__(self, url: str, tokens: Tokens, grants: Grants) -> None:
        self._http = Http1(url)
        self._root = urlsplit(url).path
        self._tokens = tokens
        self._grants = grants
        self._granted: dict[str, tuple[float, dict[str, Any]]] = {}

    async def predict(self, flow: str, target: Target, inputs: list[dict[str, Any]]) -> PredictReply:
        """The data plane's answer; raises Invalid for what it refuses, DataPlaneDown when it fails."""
        body = await self._asked("/predictions", {"flow": flow, "model": self._model(target), "inputs": inputs})
        reply = _read(body, PredictReply)
        return _whole(reply, len(inputs), len(reply.predictions))

    async def embed(self, flow: str, target: Target, texts: list[str]) -> EmbedReply:
        """The data plane's answer; raises as ``predict``."""
        model = self._model(target) if target.path else None
        message = {"flow": flow, "base_model": target.base_model, "model": model, "texts": texts}
        reply = _read(await self._asked("/embeddings", message), EmbedReply)
        return _whole(reply, len(texts), len(reply.vectors))

    async def _asked(self, route: str, message: dict[str, Any]) -> bytes:
        content = orjson.dumps({**message, "deadline_ms": DEADLINE_MS})
        try:
            async with asyncio.timeout(PATIENCE_S):
                reply = await self._http.post(self._root + route, content, bearer=self._tokens.bearer())
        except OSError as cause:
            raise DataPlaneDown("The models cannot be reached at the moment; try again.") from cause
        if reply.status != HTTPStatus.OK:
            raise _refused(reply.status, reply.body)
        return reply.body

    async def close(self) -> None:
        """Lets go of the connections."""
        await self._http.close()

    def _model(self, target: Target) -> dict[str, Any]:
        asked = f"{target.digest} {target.path} {target.deterministic}"
        ends, model = self._granted.get(asked, (0.0, {}))
        if ends < time.monotonic():
            if len(self._granted) >= GRANTS:
                self._granted.clear()
            grant = self._grants.read(target.path)
            model = {
                "digest": target.digest, "folder": grant.model_dump(), "vertical": target.vertical,
                "base_model": target.base_model, "served_by": target.served_by,
                "deterministic": target.deterministic,
            }  # fmt: skip
            self._granted[asked] = (time.monotonic() + READ_LIFE_S / 2, model)
        return model


def _refused(status: int, body: bytes) -> Exception:
    fault = read_fault(body, status)
    if status in OURS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return DataPlaneDown(f"The models cannot answer at the moment ({fault.code}); try again.")
    return Invalid(fault.message, code=fault.code, param="inputs")


def _read(body: bytes, shape: type[R]) -> R:
    try:
        return shape.model_validate_json(body)
    except ValidationError as cause:
        raise Unavailable("The models answered nonsense; try again.", code="data_plane_down") from cause


def _whole(reply: R, rows: int, answers: int) -> R:
    if answers != rows:
        raise Unavailable(f"{rows} rows got {answers} answers; try again.", code="data_plane_down")
    return reply
