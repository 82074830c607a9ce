"""The only place where errors become HTTP: status, OpenAI's error body, retry headers, request ids."""

import errno
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from django.core.exceptions import RequestDataTooBig
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from psycopg_pool import PoolTimeout
from rest_framework.exceptions import APIException
from rest_framework.response import Response

from tilth.core.errors import (
    Busy,
    Forbidden,
    Full,
    Invalid,
    NotFound,
    PaymentRequired,
    TilthError,
    TooMany,
    Unauthenticated,
    Unavailable,
    Unprocessable,
)

log = logging.getLogger(__name__)

STATUS: dict[type[TilthError], HTTPStatus] = {
    Invalid: HTTPStatus.BAD_REQUEST,
    Unauthenticated: HTTPStatus.UNAUTHORIZED,
    PaymentRequired: HTTPStatus.PAYMENT_REQUIRED,
    Forbidden: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    Busy: HTTPStatus.CONFLICT,
    Unprocessable: HTTPStatus.UNPROCESSABLE_ENTITY,
    TooMany: HTTPStatus.TOO_MANY_REQUESTS,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    Full: HTTPStatus.INSUFFICIENT_STORAGE,
}
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
INFRASTRUCTURE = (OperationalError, InterfaceError, PoolTimeout, ConnectionError, TimeoutError)


def status_of(error: TilthError) -> HTTPStatus:
    """The HTTP status of an error, by its nearest class in the table."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def error_body(error: TilthError) -> dict[str, Any]:
    """OpenAI's error object; our extra facts (limit_source …) stand beside its four keys."""
    status = status_of(error)
    kind = "server_error" if status >= 500 else "invalid_request_error"
    facts = {key: value for key, value in error.extra.items() if key != "retry_after"}
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.reason, **facts}}


def error_headers(error: TilthError) -> dict[str, str]:
    """Retry advice: only passing troubles are worth a retry."""
    if isinstance(error, Unavailable | TooMany | Busy):
        return {"Retry-After": str(error.extra.get("retry_after", 1))}
    return {"x-should-retry": "false"}


def as_tilth_error(error: Exception) -> TilthError | None:
    """Our word for another library's error; None for a bug, which stays a 500."""
    match error:
        case TilthError():
            return error
        case Http404():
            return NotFound("No such object.")
        case RequestDataTooBig():
            return Invalid("The body is over 2 MiB; upload files through /v1/files.", code="body_too_large")
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
        return JsonResponse(error_body(known), status=status_of(known), headers=error_headers(known))


class RequestId:
    """Middleware: every answer carries x-request-id; the SDK shows it to its user."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response["x-request-id"] = f"req_{uuid4().hex}"
        return response
