"""The management API of organisations, members, keys and the audit log."""

from typing import Any, ClassVar
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from tilth.core import ids
from tilth.core.errors import Forbidden
from tilth.core.idempotency import idempotent
from tilth.core.openapi import listed
from tilth.core.serializers import INT64_MAX, Strict, valid, valid_query
from tilth.tenants import selectors, services
from tilth.tenants.authentication import principal_of
from tilth.tenants.models import ApiKey, Membership, Organisation
from tilth.tenants.scopes import KEY_SCOPES, Role, Scope

ROLES = [role.value for role in Role]


class OrganisationView(APIView):
    """The caller's own organisation."""

    scopes: ClassVar = {"GET": Scope.MEMBERS_READ}

    class Out(serializers.Serializer[Any]):
        id = serializers.CharField()
        name = serializers.CharField()
        slug = serializers.CharField()
        created_at = serializers.DateTimeField()

    @extend_schema(responses=Out)
    def get(self, request: Request) -> Response:
        """Name, slug and id."""
        found = selectors.organisation_get(tenant=principal_of(request).tenant)
        return Response(_organisation(found))


class MemberOut(serializers.Serializer[Any]):
    """A member as shown."""

    id = serializers.CharField()
    email = serializers.EmailField()
    role = serializers.ChoiceField(ROLES)


class MemberListView(APIView):
    """Members, and invitations to become one."""

    scopes: ClassVar = {"GET": Scope.MEMBERS_READ, "POST": Scope.MEMBERS_WRITE}

    class In(Strict):
        email = serializers.EmailField(max_length=120)
        role = serializers.ChoiceField(ROLES)

    class Invited(serializers.Serializer[Any]):
        email = serializers.EmailField()
        role = serializers.ChoiceField(ROLES)
        token = serializers.CharField()
        expires_at = serializers.DateTimeField()

    @extend_schema(responses=listed(MemberOut))
    def get(self, request: Request) -> Response:
        """Everybody in the organisation."""
        members = selectors.member_list(tenant=principal_of(request).tenant)
        return Response({"object": "list", "data": [_member(member, email) for member, email in members]})

    @extend_schema(request=In, responses={201: Invited})
    @idempotent
    def post(self, request: Request) -> Response:
        """Invites an address; the token is shown this once."""
        body = valid(self.In, request)
        by = principal_of(request)
        made, token = services.invitation_create(tenant=by.tenant, by=by, email=body["email"], role=Role(body["role"]))
        facts = {"email": made.email, "role": made.role, "token": token, "expires_at": made.expires_at}
        return Response(self.Invited(facts).data, status=201)


class MemberView(APIView):
    """One member."""

    scopes: ClassVar = {"PATCH": Scope.MEMBERS_WRITE, "DELETE": Scope.MEMBERS_WRITE}

    class In(Strict):
        role = serializers.ChoiceField(ROLES)

    @extend_schema(request=In, responses=MemberOut)
    def patch(self, request: Request, member: str) -> Response:
        """Another role."""
        body, by = valid(self.In, request), principal_of(request)
        services.member_change(tenant=by.tenant, by=by, member=ids.parse("member", member), role=Role(body["role"]))
        changed = next(m for m in selectors.member_list(tenant=by.tenant) if ids.public("member", m[0].id) == member)
        return Response(_member(*changed))

    @extend_schema(responses={204: None})
    def delete(self, request: Request, member: str) -> Response:
        """Ends the membership."""
        by = principal_of(request)
        services.member_remove(tenant=by.tenant, by=by, member=ids.parse("member", member))
        return Response(status=204)


class KeyOut(serializers.Serializer[Any]):
    """A key as shown: never its secret."""

    id = serializers.CharField()
    name = serializers.CharField()
    hint = serializers.CharField()
    scopes = serializers.ListField(child=serializers.CharField())
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField(allow_null=True)
    revoked_at = serializers.DateTimeField(allow_null=True)
    last_used_at = serializers.DateTimeField(allow_null=True)
    monthly_cap_micro_usd = serializers.IntegerField(allow_null=True)


class KeyMade(KeyOut):
    """A fresh key with its secret, shown this once."""

    secret = serializers.CharField()


class KeyListView(APIView):
    """The organisation's keys."""

    scopes: ClassVar = {"GET": Scope.KEYS_READ, "POST": Scope.KEYS_WRITE}

    class In(Strict):
        name = serializers.CharField(max_length=100)
        scopes = serializers.ListField(
            child=serializers.ChoiceField([s.value for s in Scope]), default=sorted(KEY_SCOPES)
        )
        mode = serializers.ChoiceField(["live", "test"], default="live")
        expires_at = serializers.DateTimeField(default=None, allow_null=True)
        monthly_cap_micro_usd = serializers.IntegerField(
            default=None, allow_null=True, min_value=0, max_value=INT64_MAX
        )

    @extend_schema(responses=listed(KeyOut))
    def get(self, request: Request) -> Response:
        """Every key, revoked ones too."""
        return Response(
            {"object": "list", "data": [_key(k) for k in selectors.key_list(tenant=principal_of(request).tenant)]}
        )

    @extend_schema(request=In, responses={201: KeyMade})
    @idempotent
    def post(self, request: Request) -> Response:
        """A new key; keep the secret, it is not shown again."""
        body, by = valid(self.In, request), principal_of(request)
        scopes = frozenset(Scope(scope) for scope in body.pop("scopes"))
        key, text = services.key_create(tenant=by.tenant, by=by, scopes=scopes, **body)
        return Response(KeyMade({**_key(key), "secret": text.secret}).data, status=201)


class KeyView(APIView):
    """One key."""

    scopes: ClassVar = {"DELETE": Scope.KEYS_WRITE}

    @extend_schema(responses={200: KeyOut})
    def delete(self, request: Request, key: str) -> Response:
        """Revokes it, within seconds everywhere."""
        by = principal_of(request)
        revoked = services.key_revoke(tenant=by.tenant, by=by, key=ids.parse("key", key))
        return Response(KeyOut(_key(revoked)).data)


class KeyRotateView(APIView):
    """A second secret for a key."""

    scopes: ClassVar = {"POST": Scope.KEYS_WRITE}

    @extend_schema(request=None, responses={201: KeyMade})
    @idempotent
    def post(self, request: Request, key: str) -> Response:
        """The old secret lives 24 hours more."""
        by = principal_of(request)
        fresh, text = services.key_rotate(tenant=by.tenant, by=by, key=ids.parse("key", key))
        return Response(KeyMade({**_key(fresh), "secret": text.secret}).data, status=201)


class AuditView(APIView):
    """The audit log."""

    scopes: ClassVar = {"GET": Scope.AUDIT_READ}

    class In(serializers.Serializer[Any]):
        limit = serializers.IntegerField(default=100, min_value=1, max_value=500)
        before = serializers.UUIDField(default=None, allow_null=True)

    class Out(serializers.Serializer[Any]):
        id = serializers.UUIDField()
        created_at = serializers.DateTimeField()
        actor = serializers.CharField()
        action = serializers.CharField()
        object = serializers.CharField()
        detail = serializers.JSONField()

    @extend_schema(parameters=[In], responses=listed(Out))
    def get(self, request: Request) -> Response:
        """Newest first."""
        query = valid_query(self.In, request)
        entries = selectors.audit_list(tenant=principal_of(request).tenant, **query)
        return Response({"object": "list", "data": self.Out(entries, many=True).data})


class OrganisationListView(APIView):
    """Organisations of the signed-in person."""

    scopes: ClassVar = {"POST": Scope.MEMBERS_READ, "GET": Scope.MEMBERS_READ}

    class In(Strict):
        name = serializers.CharField(max_length=100)

    @extend_schema(responses=listed(OrganisationView.Out))
    def get(self, request: Request) -> Response:
        """Those they belong to; for a key, its own."""
        by = principal_of(request)
        tenants = [m.tenant_id for m in selectors.memberships_of_user(by.user)] if by.user else [by.tenant]
        found = [selectors.organisation_get(tenant=tenant) for tenant in tenants]
        return Response({"object": "list", "data": [_organisation(each) for each in found]})

    @extend_schema(request=In, responses={201: OrganisationView.Out})
    @idempotent
    def post(self, request: Request) -> Response:
        """A further organisation, owned by the caller."""
        body, by = valid(self.In, request), principal_of(request)
        if by.user is None:
            raise Forbidden("A key belongs to one organisation; sign in to make another.")
        made = selectors.organisation_get(tenant=services.organisation_create(name=body["name"], owner=by.user))
        return Response(_organisation(made), status=201)


def _organisation(found: Organisation) -> dict[str, Any]:
    facts = {"id": ids.public("org", found.id), "name": found.name, "slug": found.slug, "created_at": found.created_at}
    return dict(OrganisationView.Out(facts).data)


def _member(member: Membership, email: str) -> dict[str, Any]:
    return {"id": ids.public("member", member.id), "email": email, "role": member.role}


def _key(key: ApiKey) -> dict[str, Any]:
    return {
        "id": ids.public("key", key.id),
        "name": key.name,
        "hint": f"{key.prefix}…{key.last4}",
        "scopes": key.scopes,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "last_used_at": key.last_used_at,
        "monthly_cap_micro_usd": key.monthly_cap_micro_usd,
    }


def tenant_of(request: Request) -> UUID:
    """The tenant that a request acts in."""
    return principal_of(request).tenant
