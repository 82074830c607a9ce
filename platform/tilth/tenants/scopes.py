"""What may be done, and which role may do it; everything not listed is denied."""

from enum import StrEnum


class Scope(StrEnum):
    """A right that a key carries or a role implies."""

    FILES_READ = "files:read"
    FILES_WRITE = "files:write"
    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    MODELS_READ = "models:read"
    MODELS_WRITE = "models:write"
    PREDICT = "predict"
    USAGE_READ = "usage:read"
    MEMBERS_READ = "members:read"
    MEMBERS_WRITE = "members:write"
    KEYS_READ = "keys:read"
    KEYS_WRITE = "keys:write"
    BUDGET_WRITE = "budget:write"
    AUDIT_READ = "audit:read"


class Role(StrEnum):
    """What a member is in an organisation."""

    OWNER = "owner"
    ADMIN = "admin"
    DEVELOPER = "developer"
    VIEWER = "viewer"
    BILLING = "billing"


READS = frozenset({Scope.FILES_READ, Scope.JOBS_READ, Scope.MODELS_READ, Scope.USAGE_READ, Scope.MEMBERS_READ})
WORK = frozenset({Scope.FILES_WRITE, Scope.JOBS_WRITE, Scope.MODELS_WRITE, Scope.PREDICT, Scope.KEYS_READ})

ROLE_SCOPES: dict[Role, frozenset[Scope]] = {
    Role.OWNER: frozenset(Scope),
    Role.ADMIN: frozenset(Scope) - {Scope.BUDGET_WRITE},
    Role.DEVELOPER: READS | WORK | {Scope.KEYS_WRITE},
    Role.VIEWER: READS,
    Role.BILLING: frozenset({Scope.USAGE_READ, Scope.MEMBERS_READ, Scope.BUDGET_WRITE}),
}

KEY_SCOPES: frozenset[Scope] = READS | WORK
"""What a key has unless less, or more, is asked for."""
