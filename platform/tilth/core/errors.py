"""The control plane's tree of errors; what each means over HTTP is decided in core.http alone."""

from typing import Any, ClassVar, Self


class TilthError(Exception):
    """An error told to the caller: a sentence, the parameter at fault, a stable code."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, **extra: Any) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.reason = code or self.code
        self.extra = extra


class Invalid(TilthError):
    """The request says something that cannot be done as said."""

    code = "invalid_request"


class Unauthenticated(TilthError):
    """No valid key or session."""

    code = "invalid_api_key"


class PaymentRequired(TilthError):
    """A budget or credit does not cover the request; extra names limit_source."""

    code = "budget_exceeded"


class Forbidden(TilthError):
    """Known, but this role or these scopes do not allow it."""

    code = "insufficient_permissions"


class NotFound(TilthError):
    """No such object of this tenant; the same words whether another tenant has it or nobody."""

    code = "not_found"

    @classmethod
    def of(cls, kind: str, shown: object) -> Self:
        """``No such file: file-…``."""
        return cls(f"No such {kind}: {shown}")


class NotAllowed(TilthError):
    """No such method here; extra names ``allow``, those that there are."""

    code = "method_not_allowed"


class WrongType(TilthError):
    """The body is of a kind that is not read here."""

    code = "unsupported_media_type"


class Unprocessable(TilthError):
    """Understood, but contradicts what was said before under the same idempotency key."""

    code = "unprocessable"


class TooMany(TilthError):
    """A rate or queue limit; extra may hold retry_after in seconds."""

    code = "rate_limited"


class Busy(TilthError):
    """The same request is under way; try again in a moment (409, which SDKs retry)."""

    code = "in_progress"


class Unavailable(TilthError):
    """Infrastructure failed; never the caller's fault, always worth a retry."""

    code = "unavailable"


class Full(Unavailable):
    """No room is left on the disk that should keep it; nothing was kept."""

    code = "storage_full"


class NoTenant(RuntimeError):
    """A query on tenants' data outside a tenant scope: a bug of ours, stopped before it leaks."""
