"""Writes of organisations, members and keys; each leaves a line in the audit log."""

import hashlib
import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Q
from django.utils.text import slugify

from tilth.accounts.models import User
from tilth.core.clock import now
from tilth.core.errors import Forbidden, Invalid, NotFound
from tilth.core.ids import public, uuid7
from tilth.core.scope import in_tenant, tenant_scope
from tilth.tenants.keys import KeyText, new_key
from tilth.tenants.models import ApiKey, AuditEntry, Invitation, Membership, Organisation
from tilth.tenants.principal import Principal
from tilth.tenants.scopes import KEY_SCOPES, Role, Scope
from tilth.tenants.selectors import invitation_by_token

INVITATION_LIFE = timedelta(days=7)
ROTATION_LIFE = timedelta(hours=24)
BROWSER_LIFE = timedelta(minutes=15)
USED_TO = timedelta(minutes=1)


def organisation_create(*, name: str, owner: UUID) -> UUID:
    """A new organisation with its first owner; returns the tenant."""
    name = name.strip()
    if not name:
        raise Invalid("An organisation needs a name.", param="name")
    tenant = uuid7()
    with tenant_scope(tenant):
        Organisation.objects.create(id=tenant, tenant_id=tenant, name=name, slug=slugify(name)[:40] or "org")
        Membership.objects.create(user_id=owner, role=Role.OWNER)
        audit(f"user:{owner.hex}", "organisation.create", tenant.hex, name=name)
    return tenant


def audit(actor: str, action: str, subject: str, **detail: Any) -> None:
    """One line of the audit log, in the caller's transaction and scope."""
    AuditEntry.objects.create(actor=actor, action=action, object=subject, detail=detail)


@in_tenant
def key_create(
    *,
    tenant: UUID,
    by: Principal,
    name: str,
    scopes: frozenset[Scope] = KEY_SCOPES,
    mode: str = "live",
    expires_at: datetime | None = None,
    monthly_cap_micro_usd: int | None = None,
    replaces: UUID | None = None,
) -> tuple[ApiKey, KeyText]:
    """A new key; its text is returned this once. Nobody gives a key more rights than they have."""
    if excess := scopes - by.scopes:
        raise Forbidden(f"You cannot give a key scopes that you do not have: {', '.join(sorted(excess))}.")
    text = new_key(mode)
    key = ApiKey.objects.create(
        name=name, prefix=text.prefix, last4=text.last4, secret_sha256=text.sha256, scopes=sorted(scopes),
        expires_at=expires_at, monthly_cap_micro_usd=monthly_cap_micro_usd, replaces_id=replaces,
    )  # fmt: skip
    audit(by.actor, "key.create", key.id.hex, name=name, scopes=sorted(scopes))
    return key, text


@in_tenant
def keys_used(*, tenant: UUID, at: Mapping[UUID, datetime]) -> None:
    """When keys were used last, as exact as USED_TO: not every request needs a write. In the order of their ids."""
    for key, moment in sorted(at.items()):
        ApiKey.objects.filter(Q(last_used_at__isnull=True) | Q(last_used_at__lt=moment - USED_TO), id=key).update(
            last_used_at=moment
        )


@in_tenant
def key_revoke(*, tenant: UUID, by: Principal, key: UUID) -> ApiKey:
    """Stops a key; doing it twice changes nothing."""
    found = _key(key)
    if found.revoked_at is None:
        found.revoked_at = now()
        found.save(update_fields=["revoked_at"])
        audit(by.actor, "key.revoke", key.hex)
    return found


@in_tenant
def key_rotate(*, tenant: UUID, by: Principal, key: UUID) -> tuple[ApiKey, KeyText]:
    """A second live secret with the same rights and the same end; the old one ends in 24 hours."""
    old = _key(key)
    if old.revoked_at or (old.expires_at and old.expires_at <= now()):
        raise Invalid("A key that has ended cannot be rotated; make a new one.")
    before = ApiKey.objects.filter(replaces=old).first()  # by that rotation the old one's own end was brought forward
    fresh = key_create(
        tenant=tenant, by=by, name=old.name, scopes=frozenset(Scope(scope) for scope in old.scopes),
        expires_at=(before or old).expires_at, monthly_cap_micro_usd=old.monthly_cap_micro_usd, replaces=old.id,
    )  # fmt: skip
    ends = now() + ROTATION_LIFE
    old.expires_at = min(old.expires_at or ends, ends)
    old.save(update_fields=["expires_at"])
    return fresh


@in_tenant
def invitation_create(*, tenant: UUID, by: Principal, email: str, role: Role) -> tuple[Invitation, str]:
    """An invitation and the token for its link, returned this once."""
    if role == Role.OWNER and by.role != Role.OWNER:
        raise Forbidden("Only an owner may invite an owner.")
    token = secrets.token_urlsafe(32)
    invitation = Invitation.objects.create(
        email=email.lower(), role=role, token_sha256=hashlib.sha256(token.encode()).hexdigest(),
        expires_at=now() + INVITATION_LIFE,
    )  # fmt: skip
    audit(by.actor, "member.invite", email.lower(), role=role)
    return invitation, token


def invitation_accept(*, user: User, token: str) -> UUID:
    """Makes the user a member; only the invited address may accept. Returns the tenant."""
    invitation = invitation_by_token(token)
    if invitation.email != user.email.lower():
        raise Forbidden(f"This invitation is for {invitation.email}; sign in with that address.")
    with tenant_scope(invitation.tenant_id):
        locked = Invitation.locked(id=invitation.id, accepted_at=None)
        if locked is None:
            raise NotFound("This invitation does not exist or is used up; ask for a new one.")
        locked.accepted_at = now()
        locked.save(update_fields=["accepted_at"])
        Membership.objects.get_or_create(user_id=user.id, defaults={"role": invitation.role})
        audit(f"user:{user.id.hex}", "member.join", user.email, role=invitation.role)
    return invitation.tenant_id


@in_tenant
def member_change(*, tenant: UUID, by: Principal, member: UUID, role: Role) -> Membership:
    """Another role for a member; the last owner stays owner."""
    found = _member(member)
    if Role.OWNER in (role, Role(found.role)) and by.role != Role.OWNER:
        raise Forbidden("Only an owner may make or change an owner.")
    if role != Role.OWNER:
        _keep_an_owner(found)
    found.role = role
    found.save(update_fields=["role"])
    audit(by.actor, "member.change", found.user_id.hex, role=role)
    return found


@in_tenant
def member_remove(*, tenant: UUID, by: Principal, member: UUID) -> None:
    """Ends a membership; the last owner stays."""
    found = _member(member)
    if found.role == Role.OWNER and by.role != Role.OWNER:
        raise Forbidden("Only an owner may remove an owner.")
    _keep_an_owner(found)
    audit(by.actor, "member.remove", found.user_id.hex, role=found.role)
    found.delete()


def _member(member: UUID) -> Membership:
    if (found := Membership.locked(id=member)) is None:
        raise NotFound.of("member", public("member", member))
    return found


def _key(key: UUID) -> ApiKey:
    if (found := ApiKey.locked(id=key)) is None:
        raise NotFound.of("key", public("key", key))
    return found


def _keep_an_owner(leaving: Membership) -> None:
    owners = list(Membership.objects.select_for_update().filter(role=Role.OWNER).values_list("id", flat=True))
    if owners == [leaving.id]:
        raise Invalid("An organisation keeps at least one owner; make somebody else an owner first.")
