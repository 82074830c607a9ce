"""The only place where errors become HTTP: status, OpenAI's error body, retry headers, request ids."""

import errno
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from django.core.exceptions import BadRequest, RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.views import defaults
from psycopg_pool import PoolTimeout
from rest_framework.exceptions import APIException
from rest_framework.response import Response

from tilth.core.errors import (
    Busy,
    Forbidden,
    Full,
    Invalid,
    NotAllowed,
    NotFound,
    PaymentRequired,
    TilthError,
    TooMany,
    Unauthenticated,
    Unavailable,
    Unprocessable,
    WrongType,
)
from tilth.core.redaction import redacted

log = logging.getLogger(__name__)

STATUS: dict[type[TilthError], HTTPStatus] = {
    Invalid: HTTPStatus.BAD_REQUEST,
    Unauthenticated: HTTPStatus.UNAUTHORIZED,
    PaymentRequired: HTTPStatus.PAYMENT_REQUIRED,
    Forbidden: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    NotAllowed: HTTPStatus.METHOD_NOT_ALLOWED,
    WrongType: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    Busy: HTTPStatus.CONFLICT,
    Unprocessable: HTTPStatus.UNPROCESSABLE_ENTITY,
    TooMany: HTTPStatus.TOO_MANY_REQUESTS,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    Full: HTTPStatus.INSUFFICIENT_STORAGE,
}
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
API = ("/v1/", "/api/")
INTERNAL = {
    "error": {
        "message": "The server made a mistake; it has been noted.", "type": "server_error", "param": None,
        "code": "internal",
    }
}  # fmt: skip
"""The body of every 500."""
HEADER_FACTS = frozenset({"retry_after", "allow"})
"""Extra facts that are told in a header."""
INFRASTRUCTURE = (OperationalError, InterfaceError, PoolTimeout, ConnectionError, TimeoutError)


def status_of(error: TilthError) -> HTTPStatus:
    """The HTTP status of an error, by its nearest class in the table."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def error_body(error: TilthError) -> dict[str, Any]:
    """OpenAI's error object; our extra facts (limit_source …) stand beside its four keys."""
    status = status_of(error)
    kind = "server_error" if status >= 500 else "invalid_request_error"
    facts = {key: value for key, value in error.extra.items() if key not in HEADER_FACTS}
    return {
        "error": {"message": redacted(error.message), "type": kind, "param": error.param, "code": error.reason, **facts}
    }


def error_headers(error: TilthError) -> dict[str, str]:
    """Retry advice: only passing troubles are worth a retry; what HTTP wants with a 401 and a 405."""
    if isinstance(error, Unavailable | TooMany | Busy):
        return {"Retry-After": str(error.extra.get("retry_after", 1))}
    told = {"x-should-retry": "false"}
    if isinstance(error, Unauthenticated):
        told["WWW-Authenticate"] = "Bearer"
    if isinstance(error, NotAllowed):
        told["Allow"] = str(error.extra["allow"])
    return told


def as_tilth_error(error: Exception) -> TilthError | None:
    """Our word for another library's error; None for a bug, which stays a 500."""
    match error:
        case TilthError():
            return error
        case Http404():
            return NotFound("No such object.")
        case RequestDataTooBig():
            return Invalid("The body is over 2 MiB; upload files through /v1/files.", code="body_too_large")
        case SuspiciousOperation() | BadRequest():
            return Invalid("The request cannot be read as it is; check its form, fields and headers.")
        case APIException():
            return _from_drf(error)
        case OSError() if error.errno in NO_ROOM:
            log.error("no room: %s", error)
            return Full("The storage is full and has kept nothing of this; try again later or tell the operator.")
        case _ if isinstance(error, INFRASTRUCTURE):
            log.error("infrastructure: %s", error)
            return Unavailable("The service cannot reach its database or data plane; try again.")
    return None


def _from_drf(error: APIException) -> TilthError:
    by_status: dict[int, type[TilthError]] = {int(status): kind for kind, status in STATUS.items()}
    kind = by_status.get(error.status_code, Invalid)
    param, message = _first_detail(error.detail)
    return kind(message, param=param)


def _first_detail(detail: Any, param: str | None = None) -> tuple[str | None, str]:
    """The first leaf of DRF's nested details, with its dotted path."""
    if isinstance(detail, dict):
        key, value = next(iter(detail.items()))
        step = None if key == "non_field_errors" else str(key)
        return _first_detail(value, ".".join(filter(None, (param, step))) or None)
    if isinstance(detail, list):
        return _first_detail(detail[0], param)
    return param, str(detail)


def render_error(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's exception handler."""
    known = as_tilth_error(error)
    if known is None:
        return None
    return Response(error_body(known), status=status_of(known), headers=error_headers(known))


def is_api(path: str) -> bool:
    """Whether programs call it, which want JSON; people see the other pages."""
    return path.startswith(API)


def answered(error: TilthError) -> HttpResponse:
    """An error's whole answer, outside DRF."""
    return JsonResponse(error_body(error), status=status_of(error), headers=error_headers(error))


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's handler400: what it refuses by itself, before or beside a view."""
    return answered(as_tilth_error(exception) or Invalid("The request cannot be read."))


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's handler404."""
    if is_api(request.path):
        return answered(NotFound("There is no such address; /v1/openapi.json and /api/schema name all there are."))
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    """Django's handler500: a bug of ours, already in the log; no word of it is shown."""
    return JsonResponse(INTERNAL, status=500) if is_api(request.path) else defaults.server_error(request)


Handler = Callable[[HttpRequest], HttpResponse]


class InfrastructureFaults:
    """Middleware: a lost database is a 503 with Retry-After on every page, never a 401, 403, 404 or a bare 500."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Answers for views that raise one of our errors or lose the infrastructure."""
        known = as_tilth_error(error) if not isinstance(error, Http404) else None
        if known is None:
            return None
        return answered(known)


class RequestId:
    """Middleware: every answer carries x-request-id; the SDK shows it to its user."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response["x-request-id"] = f"req_{uuid4().hex}"
        return response
