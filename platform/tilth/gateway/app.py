"""The thin ASGI app: questions and uploads, whose key is checked before a byte of the body is read; health."""

import asyncio
import gc
import logging
import re
from collections.abc import Awaitable, Callable
from uuid import UUID

import psycopg
from django.conf import settings

from tilth.core.errors import NotAllowed, Unavailable
from tilth.core.idempotency import refuse_long
from tilth.core.rls import refuse_mighty_roles
from tilth.dataplane.access import grants
from tilth.dataplane.keys import signing_key
from tilth.dataplane.tokens import Tokens
from tilth.gateway import database
from tilth.gateway.asks import Ask, Embed, parse
from tilth.gateway.auth import Caller, Keys
from tilth.gateway.bodies import ClientLeft, Completion, read_body
from tilth.gateway.holds import Ensure, Holds
from tilth.gateway.lookups import Lookups
from tilth.gateway.parts import Completions, upload_part
from tilth.gateway.predictions import Predictions
from tilth.gateway.questions import Embedding, Prediction, Question
from tilth.gateway.responses import Receive, Scope, Send, known_error, new_request_id, send_error, send_json
from tilth.gateway.settlements import Settlements
from tilth.gateway.uploads import upload_file
from tilth.gateway.upstream import Upstream
from tilth.tenants.scopes import Scope as Right

HEALTH_S = 1.0
OWN = {"/v1/predictions": "POST", "/v1/embeddings": "POST", "/healthz": "GET"}
"""Paths that are the thin app's whatever the method, and the one that they allow."""
ID = re.compile(r"(?<=^/v1/uploads/)[^/]+(?=/)")
"""In a path; a route has a star there."""

Handle = Callable[[Scope, Receive, Send, str], Awaitable[None]]

log = logging.getLogger(__name__)


class Gateway:
    """Made in the event loop that serves it; ``start`` before the first request, ``stop`` after the last."""

    def __init__(self, database_url: str, upstream: Upstream) -> None:
        self._pool = database.pool(database_url)
        self._keys = Keys(self._pool)
        self._holds = Holds(database_url, Ensure())
        self._settlements = Settlements(database_url)
        self._upstream = upstream
        self._predictions = Predictions(Lookups(self._pool), self._holds, self._settlements, upstream)
        self._completions = Completions()
        self.routes: dict[tuple[str, str], Handle] = {
            ("POST", "/v1/predictions"): self._predict,
            ("POST", "/v1/embeddings"): self._embed,
            ("POST", "/v1/files"): self._upload,
            ("POST", "/v1/uploads/*/parts"): self._part,
            ("POST", "/v1/uploads/*/complete"): self._complete,
            ("GET", "/healthz"): self._health,
        }

    async def start(self) -> None:
        """Refuses roles that would see every tenant; a database that is away may come back later."""
        await self._pool.open()
        self._holds.start()
        gc.collect()
        gc.freeze()  # the collector need not look at Django again and again: it stopped requests for 50 ms
        try:
            await asyncio.to_thread(refuse_mighty_roles)
        except Exception as error:
            if not isinstance(known_error(error), Unavailable):
                raise
            log.error("the database is away at start: %s", error)

    async def stop(self) -> None:
        """Lets what is under way come to its end; a file that is being put together can be completed again."""
        await self._completions.close()
        await self._predictions.close()
        await self._holds.close()
        await self._settlements.close()
        await self._upstream.close()
        await self._pool.close()

    def serves(self, scope: Scope) -> bool:
        """Whether a request is the thin app's; Django has the other methods of /v1/files."""
        return scope["path"] in OWN or self._route(scope) in self.routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, answered in any case."""
        request_id = new_request_id()
        try:
            handle = self.routes.get(self._route(scope), self._not_allowed)
            await handle(scope, receive, send, request_id)
        except ClientLeft:
            return
        except Exception as error:
            await send_error(send, error, request_id=request_id)

    def _route(self, scope: Scope) -> tuple[str, str]:
        return scope["method"], ID.sub("*", scope["path"])

    async def _predict(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        await self._answer(scope, receive, send, request_id, lambda body: Prediction(parse(body, Ask)))

    async def _embed(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        await self._answer(scope, receive, send, request_id, lambda body: Embedding(parse(body, Embed)))

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, request_id: str, read: Callable[[bytes], Question]
    ) -> None:
        caller = await self._caller(scope, Right.PREDICT)
        body = await read_body(scope["headers"], receive)
        question = read(body)
        request = UUID(hex=request_id.removeprefix("req_"))
        key = _header(scope, b"idempotency-key")
        refuse_long(key)
        answer = await self._predictions.answer(caller, question, body, request, retried=_retried(scope), key=key)
        await send_json(send, answer, request_id=request_id)

    async def _upload(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        caller = await self._caller(scope, Right.FILES_WRITE)
        await upload_file(scope, receive, send, caller.principal)

    async def _part(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        caller = await self._caller(scope, Right.FILES_WRITE)
        await upload_part(scope, receive, send, caller.principal, _id(scope))

    async def _complete(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        caller = await self._caller(scope, Right.FILES_WRITE)
        wish = parse(await read_body(scope["headers"], receive), Completion)
        answer = await self._completions.complete(caller.principal, _id(scope), wish)
        await send_json(send, answer, request_id=request_id)

    async def _caller(self, scope: Scope, right: Right) -> Caller:
        caller = await self._keys.authenticate(scope["headers"])
        caller.principal.need(right)
        return caller

    async def _not_allowed(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        allow = OWN[scope["path"]]
        if scope["path"] != "/healthz":
            await self._keys.authenticate(scope["headers"])
        raise NotAllowed(f"{scope['method']} is not allowed here; allowed is {allow}.", allow=allow)

    async def _health(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        try:
            async with asyncio.timeout(HEALTH_S), self._pool.connection(timeout=HEALTH_S) as connection:
                await connection.execute("SELECT 1")
        except (psycopg.Error, TimeoutError) as cause:
            raise Unavailable("The database is away.") from cause
        await send_json(send, {"status": "ok"}, request_id=request_id)


def _id(scope: Scope) -> str:
    found = ID.search(scope["path"])
    return found[0] if found else ""


def _retried(scope: Scope) -> bool:
    """The openai SDK says how often it has sent this before."""
    return _header(scope, b"x-stainless-retry-count") not in (b"", b"0")


def _header(scope: Scope, wanted: bytes) -> bytes:
    return next((value for name, value in scope["headers"] if name == wanted), b"")


def gateway_from_settings() -> Gateway:
    """As this installation is set up."""
    env = settings.ENV
    return Gateway(env.database_url, Upstream(env.dataplane_url, Tokens(signing_key()), grants()))
