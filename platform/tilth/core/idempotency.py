"""Retries of a POST get the first one's reply: by Idempotency-Key, or as the openai SDK marks them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from hashlib import sha256
from typing import Any
from uuid import UUID

from django.db import connection
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from tilth.core.clock import now
from tilth.core.crash import crash_point
from tilth.core.errors import Busy, Invalid, Unprocessable
from tilth.core.models import FirstReply
from tilth.core.scope import in_tenant

REMEMBERED = timedelta(minutes=10)
LONGEST_KEY = 255
"""Characters."""


@dataclass(frozen=True)
class Asked:
    """What identifies a request."""

    fingerprint: str
    """sha256 over who asked, method, path and body, hex."""
    retried: bool
    """The SDK says that it sent this before."""
    key: str
    """Its Idempotency-Key, or an empty text."""


View = Callable[..., Response]


def asked(headers: Mapping[str, str], *what: str) -> Asked:
    """A request of these headers; ``what`` are the words that make two of them the same: who, method, path, body."""
    key = headers.get("Idempotency-Key", "")
    refuse_long(key)
    return Asked(
        fingerprint=sha256("\0".join(what).encode()).hexdigest(),
        retried=headers.get("x-stainless-retry-count", "0") not in ("", "0"),
        key=key,
    )


def refuse_long(key: str | bytes) -> None:
    """Raises Invalid for an Idempotency-Key that would have to be cut."""
    if len(key) > LONGEST_KEY:
        raise Invalid(f"An Idempotency-Key has at most {LONGEST_KEY} characters, found {len(key)}.")


def idempotent(post: View) -> View:
    """A view's ``post`` whose retries get the first reply; what it writes and that reply are one transaction."""

    @wraps(post)
    def posted(view: Any, request: Request, **path: str) -> Response:
        by: Any = request.user  # the Principal that KeyOrSession found
        body = sha256(request._request.body).hexdigest()

        def make() -> dict[str, Any]:
            made = post(view, request, **path)
            return {"status": made.status_code, "body": made.data}

        this = asked(request.headers, by.actor, str(request.method), request.path, body)
        return Response(**_response(once(tenant=by.tenant, request=this, make=make)))

    return posted


def _response(reply: dict[str, Any]) -> dict[str, Any]:
    return {"data": reply["body"], "status": reply["status"]}


def once(*, tenant: UUID, request: Asked, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The reply to a request: the first one's if this is a retry, else what ``make`` makes, in one transaction with it.

    Raises Busy while the first is under way, Unprocessable if the key was used for another request.
    """
    reply = _reply(tenant=tenant, request=request, make=make)
    crash_point("reply.committed")
    return reply


@in_tenant
def _reply(*, tenant: UUID, request: Asked, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    _lock(tenant, request)
    found = _first(request)
    if found is not None:
        return dict(found.body)
    reply: dict[str, Any] = json.loads(JSONRenderer().render(make()))
    FirstReply.objects.filter(created_at__lt=now() - REMEMBERED).delete()
    FirstReply.objects.create(request=request.fingerprint, key=request.key, body=reply)
    return reply


def _lock(tenant: UUID, request: Asked) -> None:
    """A retry is told to come again; an equal request that is none waits, then does its own work."""
    what = [f"{tenant}:{request.key or request.fingerprint}"]
    with connection.cursor() as cursor:
        if not (request.retried or request.key):
            cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 1))", what)
            return
        cursor.execute("SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 1))", what)
        if not cursor.fetchone()[0]:
            raise Busy("The same request is still being worked on; its reply can be had in a moment.")


def _first(request: Asked) -> FirstReply | None:
    recent = FirstReply.objects.filter(created_at__gte=now() - REMEMBERED).order_by("-created_at")
    if request.key:
        found: FirstReply | None = recent.filter(key=request.key).first()
        if found is not None and found.request != request.fingerprint:
            raise Unprocessable("This Idempotency-Key was used for another request; use a fresh one.")
        return found
    return recent.filter(request=request.fingerprint).first() if request.retried else None
