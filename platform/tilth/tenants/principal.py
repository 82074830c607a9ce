"""Who is asking: frozen, made once per request, passed on; never an ORM object."""

from dataclasses import dataclass
from uuid import UUID

from tilth.core.errors import Forbidden
from tilth.tenants.scopes import Role, Scope


@dataclass(frozen=True)
class Principal:
    """A key or a member acting in one organisation."""

    tenant: UUID
    actor: str
    """``key:<hex>`` or ``user:<hex>``, as the audit log shows it."""
    scopes: frozenset[Scope]
    role: Role | None = None
    key: UUID | None = None
    user: UUID | None = None

    def need(self, scope: Scope) -> None:
        """Raises Forbidden naming the missing right."""
        if scope not in self.scopes:
            who = "This key" if self.key else f"The role {self.role}"
            raise Forbidden(f"{who} may not do this: it needs the scope {scope.value!r}.")
