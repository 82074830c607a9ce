"""Reads of organisations, members and keys."""

import hashlib
from uuid import UUID

from tilth.accounts.models import User
from tilth.core.clock import now
from tilth.core.errors import NotFound, Unauthenticated
from tilth.core.scope import in_tenant, lookup_scope
from tilth.tenants.keys import well_formed
from tilth.tenants.models import ApiKey, AuditEntry, Invitation, Membership, Organisation
from tilth.tenants.principal import Principal
from tilth.tenants.scopes import ROLE_SCOPES, Role, Scope

WRONG_KEY = "Incorrect API key provided. You can find your keys on the page Keys of your dashboard."


def key_by_secret(secret: str) -> ApiKey:
    """The key, if it is good for now; raises Unauthenticated, without a query if the CRC is wrong."""
    if not well_formed(secret):
        raise Unauthenticated(WRONG_KEY)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    with lookup_scope("tilth.key_sha256", digest):
        key = ApiKey.unscoped.filter(secret_sha256=digest).first()
    if key is None or key.revoked_at or (key.expires_at and key.expires_at <= now()):
        raise Unauthenticated(WRONG_KEY)
    return key


def principal_of_key(key: ApiKey) -> Principal:
    """The principal behind a key."""
    scopes = frozenset(Scope(scope) for scope in key.scopes)
    return Principal(tenant=key.tenant_id, actor=f"key:{key.id.hex}", scopes=scopes, key=key.id)


def principal_of_user(user: UUID, tenant: UUID | None) -> Principal | None:
    """The principal of a signed-in user in an organisation (the first they joined if None); None without one."""
    memberships = memberships_of_user(user)
    chosen = next((m for m in memberships if tenant in (None, m.tenant_id)), None)
    if chosen is None:
        return None
    role = Role(chosen.role)
    return Principal(tenant=chosen.tenant_id, actor=f"user:{user.hex}", scopes=ROLE_SCOPES[role], role=role, user=user)


def memberships_of_user(user: UUID) -> list[Membership]:
    """A user's memberships in every organisation, oldest first; found by the policy on ``tilth.user``."""
    with lookup_scope("tilth.user", str(user)):
        return list(Membership.unscoped.filter(user_id=user).order_by("created_at"))


def invitation_by_token(token: str) -> Invitation:
    """The open invitation behind a link's token; raises NotFound."""
    digest = hashlib.sha256(token.encode()).hexdigest()
    with lookup_scope("tilth.token_sha256", digest):
        found = Invitation.unscoped.filter(token_sha256=digest).first()
    if found is None or found.accepted_at or found.expires_at <= now():
        raise NotFound("This invitation does not exist or is used up; ask for a new one.")
    return found


@in_tenant
def organisation_get(*, tenant: UUID) -> Organisation:
    """The tenant's own organisation."""
    found = Organisation.objects.filter(id=tenant).first()
    if found is None:
        raise NotFound.of("organisation", tenant)
    return found


@in_tenant
def member_list(*, tenant: UUID) -> list[tuple[Membership, str]]:
    """Members with their email addresses, oldest first."""
    members = list(Membership.objects.order_by("created_at"))
    emails = dict(User.objects.filter(id__in=[m.user_id for m in members]).values_list("id", "email"))
    return [(member, emails[member.user_id]) for member in members]


@in_tenant
def key_list(*, tenant: UUID) -> list[ApiKey]:
    """Keys, newest first, revoked ones too."""
    return list(ApiKey.objects.order_by("-created_at"))


@in_tenant
def audit_list(*, tenant: UUID, limit: int = 100, before: UUID | None = None) -> list[AuditEntry]:
    """The audit log, newest first; ``before`` is the last id of the page before."""
    entries = AuditEntry.objects.order_by("-id")
    return list((entries.filter(id__lt=before) if before else entries)[:limit])
