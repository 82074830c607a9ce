"""Every table of PostgreSQL's own catalogue must be locked to its tenant; a new one is covered by itself."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

# Tables without a tenant, each with its reason.
GLOBAL_TABLES = {
    "accounts_user": "a person may belong to several organisations",
    "accounts_user_groups": "Django's operators' groups",
    "accounts_user_user_permissions": "Django's operators' permissions",
    "account_emailaddress": "allauth: belongs to a person",
    "account_emailconfirmation": "allauth: belongs to a person",
    "mfa_authenticator": "allauth: belongs to a person",
    "auth_group": "Django's operators' groups",
    "auth_group_permissions": "Django's operators' groups",
    "auth_permission": "Django's list of permissions",
    "django_content_type": "Django's list of models",
    "django_migrations": "the schema's history",
    "django_session": "a browser's session, before a tenant is known",
    "procrastinate_events": "queue: arguments are ids only",
    "procrastinate_jobs": "queue: arguments are ids only",
    "procrastinate_periodic_defers": "queue: periodic tasks",
    "procrastinate_workers": "queue: heartbeats of workers",
    "usage_price": "the operator's price list is the same for all",
}

# Policies beside tenant_isolation and system_reads, each with its reason.
LOOKUPS = {
    ("tenants_apikey", "found_by_hash"): "a key is known before its tenant",
    ("tenants_membership", "found_by_user"): "a person signs in before choosing an organisation",
    ("tenants_invitation", "found_by_token"): "an invited person is not a member yet",
}

MINE = "(tenant_id = ( SELECT (NULLIF(current_setting('tilth.tenant'::text, true), ''::text))::uuid AS \"nullif\"))"

TABLES = """SELECT relname, relrowsecurity, relforcerowsecurity FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') ORDER BY relname"""
POLICIES = "SELECT tablename, policyname, cmd, roles::text[], qual, with_check, permissive FROM pg_policies"
UNIQUES = """SELECT c.conrelid::regclass::text, c.conname, array_agg(a.attname::text)
    FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)
    WHERE c.contype = 'u' GROUP BY 1, 2"""
REFERENCES = """SELECT c.conrelid::regclass::text, c.confrelid::regclass::text, c.conname, array_agg(a.attname::text)
    FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)
    WHERE c.contype = 'f' GROUP BY 1, 2, 3"""
COLUMNS = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
INDEXES = "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
VIEWS = """SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('v', 'm')
    AND NOT coalesce(reloptions @> ARRAY['security_invoker=true'], false)"""
SYSTEM = "tilth_system"


def faults(db: psycopg.Connection) -> list[str]:
    """What is wrong with the schema's tenancy; empty when every table is locked."""
    tables = {name: (enabled, forced) for name, enabled, forced in db.execute(TABLES)}
    tenants = {name for name in tables if name not in GLOBAL_TABLES}
    found = [f"{name} is not locked: {flags}" for name, flags in tables.items() if name in tenants and not all(flags)]
    found += [f"view {row[0]} is not security_invoker" for row in db.execute(VIEWS)]
    return [*found, *_policy_faults(db, tenants), *_key_faults(db, tenants), *_column_faults(db, tenants)]


def _policy_faults(db: psycopg.Connection, tenants: set[str]) -> Iterator[str]:
    isolated = set()
    for table, name, command, roles, using, check, permissive in db.execute(POLICIES):
        if name == "tenant_isolation":
            if (command, roles, using, check, permissive) == ("ALL", ["public"], MINE, MINE, "PERMISSIVE"):
                isolated.add(table)
            else:
                yield f"{table}: tenant_isolation is {command} to {roles} using {using} check {check}"
        elif name == "system_reads":
            if (command, roles) != ("SELECT", [SYSTEM]):
                yield f"{table}: system_reads is {command} to {roles}"
        elif (table, name) not in LOOKUPS or command != "SELECT":
            yield f"{table}: unlisted policy {name}"
    yield from (f"{table} has no tenant_isolation" for table in tenants - isolated)


def _key_faults(db: psycopg.Connection, tenants: set[str]) -> Iterator[str]:
    keyed = set()
    for table, name, columns in db.execute(UNIQUES):
        if table in tenants and "tenant_id" not in columns:
            yield f"{table}: unique {name} reveals other tenants' rows"
        if set(columns) == {"tenant_id", "id"}:
            keyed.add(table)
    yield from (f"{table} has no unique (tenant_id, id)" for table in tenants - keyed)
    for table, to, name, columns in db.execute(REFERENCES):
        if to in tenants and "tenant_id" not in columns:
            yield f"{table}: {name} may point at another tenant's {to}"


def _column_faults(db: psycopg.Connection, tenants: set[str]) -> Iterator[str]:
    """A column that names a tenant's object without a composite foreign key beside it."""
    references = {(table, column) for table, _, _, columns in db.execute(REFERENCES) for column in columns}
    names = {"user_id", "tenant_id"} | {"price_id"}
    for table, column in db.execute(COLUMNS):
        tied = (table, column) in references or column in names or column in FREE_IDS
        if table in tenants and column.endswith("_id") and not tied:
            yield f"{table}.{column} is not tied to its tenant by a foreign key"


FREE_IDS = {
    "event_id": "the source's own id of a usage event, not a reference",
}


def test_every_table_is_locked_to_its_tenant(owner_db: psycopg.Connection) -> None:
    assert faults(owner_db) == []


def test_the_list_of_global_tables_names_only_tables_that_exist(owner_db: psycopg.Connection) -> None:
    existing = {name for name, *_ in owner_db.execute(TABLES)}
    assert set(GLOBAL_TABLES) - existing == set()


def test_dropping_any_one_policy_is_noticed(owner_db: psycopg.Connection) -> None:
    policies = [(t, p) for t, p, *_ in owner_db.execute(POLICIES).fetchall() if p == "tenant_isolation"]
    assert len(policies) >= 10
    for table, policy in policies:
        with owner_db.transaction(force_rollback=True):
            owner_db.execute(f'DROP POLICY "{policy}" ON "{table}"')
            assert faults(owner_db) == [f"{table} has no tenant_isolation"]


def test_a_table_without_force_is_noticed(owner_db: psycopg.Connection) -> None:
    with owner_db.transaction(force_rollback=True):
        owner_db.execute("ALTER TABLE tenants_apikey NO FORCE ROW LEVEL SECURITY")
        assert faults(owner_db) == ["tenants_apikey is not locked: (True, False)"]


@pytest.mark.parametrize("role", ["tilth_app", "tilth_system"])
def test_the_serving_roles_are_bound_by_row_level_security(owner_db: psycopg.Connection, role: str) -> None:
    mighty = owner_db.execute(
        "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = %s", [role]
    ).fetchone()
    assert mighty == (False, False, False, False)


def test_the_app_reads_and_the_system_role_reads_only_what_is_listed(owner_db: psycopg.Connection) -> None:
    readable = owner_db.execute(
        """SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
           AND has_table_privilege(%s, oid, 'SELECT')""", [SYSTEM]
    ).fetchall()  # fmt: skip
    listed = {table for table, policy, *_ in owner_db.execute(POLICIES) if policy == "system_reads"}
    assert {name for (name,) in readable} - listed - set(GLOBAL_TABLES) == set()
    writable = owner_db.execute(
        """SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
           AND has_table_privilege(%s, oid, 'INSERT, UPDATE, DELETE')""", [SYSTEM]
    ).fetchall()  # fmt: skip
    assert writable == []


def test_each_tenant_sees_its_own_rows_and_nobody_sees_any_without_a_scope(
    tenant: Any, other_tenant: Any, app_db: psycopg.Connection
) -> None:
    def names() -> list[str]:
        return [name for (name,) in app_db.execute("SELECT name FROM tenants_organisation")]

    assert names() == []
    for asked in (tenant, other_tenant):
        with app_db.transaction():
            app_db.execute("SELECT set_config('tilth.tenant', %s, true)", [str(asked.id)])
            assert names() == [asked.name]
        assert names() == [], "after the transaction the setting is an empty string and must show nothing"


def test_a_row_cannot_be_written_into_another_tenant(
    tenant: Any, other_tenant: Any, app_db: psycopg.Connection
) -> None:
    with app_db.transaction(force_rollback=True):
        app_db.execute("SELECT set_config('tilth.tenant', %s, true)", [str(tenant.id)])
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app_db.execute("UPDATE tenants_membership SET tenant_id = %s", [other_tenant.id])
