"""The current tenant: opened per service call, told to PostgreSQL, restored on leaving; without it queries fail."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import ParamSpec, TypeVar
from uuid import UUID

from django.db import connection, transaction

from tilth.core.errors import NoTenant

P = ParamSpec("P")
R = TypeVar("R")

_tenant: ContextVar[UUID | None] = ContextVar("tenant", default=None)


def current_tenant() -> UUID:
    """The tenant whose scope is open; raises NoTenant outside."""
    if (tenant := _tenant.get()) is None:
        raise NoTenant("a tenant's data was asked for outside a tenant scope; open one with tenant_scope(tenant)")
    return tenant


@contextmanager
def tenant_scope(tenant: UUID) -> Iterator[None]:
    """A transaction that sees and writes this tenant's rows only. Nested scopes restore the former tenant."""
    token = _tenant.set(tenant)
    try:
        with lookup_scope("tilth.tenant", str(tenant)):
            yield
    finally:
        _tenant.reset(token)


@contextmanager
def lookup_scope(setting: str, value: str) -> Iterator[None]:
    """Within a transaction, sets what one policy looks at (``tilth.tenant``, ``tilth.user``, …)."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(current_setting(%s, true), ''), set_config(%s, %s, true)", [setting, setting, value]
        )
        former = cursor.fetchone()[0]
        yield
        # Only on success: after an error the rollback restores the setting, and no statement may run before it.
        cursor.execute("SELECT set_config(%s, %s, true)", [setting, former])


def in_tenant(function: Callable[P, R]) -> Callable[P, R]:
    """Runs a service or selector in the scope of its keyword ``tenant``: one call, one transaction, one scope."""

    @wraps(function)
    def scoped(*args: P.args, **kwargs: P.kwargs) -> R:
        tenant = kwargs["tenant"]
        if not isinstance(tenant, UUID):
            raise NoTenant(f"{function.__qualname__} needs tenant=<UUID>, got {tenant!r}")
        with tenant_scope(tenant):
            return function(*args, **kwargs)

    return scoped
