"""Who is asking: shape and CRC first, at no query; then the key by its hash, at most two seconds old."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from tilth.core.clock import now
from tilth.core.errors import Unauthenticated
from tilth.gateway.database import Row, together
from tilth.gateway.fresh import Fresh
from tilth.tenants.authentication import secret_of
from tilth.tenants.keys import well_formed
from tilth.tenants.principal import Principal
from tilth.tenants.scopes import Scope
from tilth.tenants.selectors import WRONG_KEY

REMEMBERED_S = 2.0
"""A revoked key is refused this much later at the latest."""

LOOK_UP = "SELECT set_config('tilth.key_sha256', %s, true)"
FIND = """SELECT tenant_id, id, scopes, expires_at, monthly_cap_micro_usd FROM tenants_apikey
    WHERE secret_sha256 = %s AND revoked_at IS NULL"""


@dataclass(frozen=True)
class Caller:
    """A key that is good for now."""

    principal: Principal
    expires_at: datetime | None
    cap_micro_usd: int | None
    """What the key may spend in a month; None without a cap."""


class Keys:
    """Finds callers by the Authorization header."""

    def __init__(self, pool: AsyncConnectionPool[AsyncConnection[Row]]) -> None:
        self._pool = pool
        self._callers: Fresh[str, Caller] = Fresh(self._find, REMEMBERED_S)

    async def authenticate(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller:
        """The caller behind the headers; raises Unauthenticated, without a query if shape or CRC are wrong."""
        secret = bearer(headers)
        if not well_formed(secret):
            raise Unauthenticated(WRONG_KEY)
        caller = await self._callers.get(hashlib.sha256(secret.encode()).hexdigest())
        if caller.expires_at is not None and caller.expires_at <= now():
            raise Unauthenticated(WRONG_KEY)
        return caller

    async def _find(self, digest: str) -> Caller:
        async with self._pool.connection() as connection:
            _, rows = await together(connection, [(LOOK_UP, [digest]), (FIND, [digest])])
        if not rows:
            raise Unauthenticated(WRONG_KEY)
        return _caller(*rows[0])


def bearer(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The text of ``Authorization: Bearer <text>``; raises Unauthenticated, also for two such headers."""
    sent = [value for name, value in headers if name == b"authorization"]
    if len(sent) > 1:
        raise Unauthenticated(WRONG_KEY)
    return secret_of(sent[0].decode("latin-1") if sent else "")


def _caller(tenant: Any, key: Any, scopes: list[str], expires_at: datetime | None, cap: int | None) -> Caller:
    rights = frozenset(Scope(scope) for scope in scopes)
    return Caller(Principal(tenant=tenant, actor=f"key:{key.hex}", scopes=rights, key=key), expires_at, cap)
