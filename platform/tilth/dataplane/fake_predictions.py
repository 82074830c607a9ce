"""The data plane's predictions, faked as a tiny ASGI app: right answers by the contract, and knobs to go wrong with."""

import asyncio
import struct
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jwt
import orjson
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tilth.contract.digest import base_digest
from tilth.contract.registry import vertical
from tilth.dataplane.tokens import AUDIENCE

TOKENS_PER_ROW = 7


class FakePredictions:
    """Answers ``POST /predictions`` and ``/embeddings``; with a verify key only to callers with a token."""

    def __init__(self, verify_key: Ed25519PublicKey | None = None) -> None:
        self.delay_s = 0.0
        self.tokens_per_row = TOKENS_PER_ROW
        self.digest: str | None = None
        """Answers with this instead of the digest that was asked for."""
        self.fault: tuple[int, str, str] | None = None
        """(status, code, message) of every answer."""
        self.asked = 0
        self.answered = 0
        self._verify_key = verify_key
        self._good_tokens: set[str] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        status, answer = 401, fault("unauthenticated", "no valid token")
        if self._let_in(dict(scope["headers"]).get(b"authorization", b"").decode()):
            status, answer = await self._answer(orjson.loads(await _body(receive)))
        content = orjson.dumps(answer)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.asked += 1
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.fault is not None:
            return self.fault[0], fault(*self.fault[1:])
        self.answered += 1
        if "texts" in asked:
            return 200, self._embedded(asked)
        rows = len(asked["inputs"])
        prediction = {"output": "yes", "score": 0.9, "probabilities": {"yes": 0.9, "no": 0.1}, "out_of_scope": False}
        return 200, {
            "predictions": [prediction] * rows,
            "digest": self.digest or asked["model"]["digest"],
            "generation": 1,
            "usage": {"rows": rows, "tokens": self.tokens_per_row * rows},
        }

    def _embedded(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A vector of three numbers for each text; the first is its length."""
        rows = len(asked["texts"])
        alone = base_digest(asked["base_model"], vertical("support_chat").base_model(asked["base_model"]).revision)
        return {
            "vectors": [b64encode(struct.pack("<3f", len(text), 0.5, -1.0)).decode() for text in asked["texts"]],
            "width": 3,
            "digest": self.digest or (asked["model"]["digest"] if asked["model"] else alone),
            "generation": 1,
            "usage": {"rows": rows, "tokens": self.tokens_per_row * rows},
        }

    def _let_in(self, header: str) -> bool:
        if self._verify_key is None or header in self._good_tokens:
            return True
        try:
            jwt.decode(header.removeprefix("Bearer "), self._verify_key, algorithms=["EdDSA"], audience=AUDIENCE)
        except jwt.InvalidTokenError:
            return False
        self._good_tokens.add(header)
        return True


def fault(code: str, message: str) -> dict[str, Any]:
    """An error as the data plane answers it."""
    return {"error": {"code": code, "message": message}}


@contextmanager
def running(app: Any) -> Iterator[str]:
    """Serves an ASGI app, lifespan and all, on a free port of loopback in a thread; yields its URL."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", loop="uvloop", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the app did not start; its log says why")
        thread.join(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


async def _body(receive: Any) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


application = FakePredictions()
