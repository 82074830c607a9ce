"""A tenant's rows by PostgreSQL's own catalogue: a new table is exported and erased without anyone thinking of it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import psycopg
from psycopg import sql

from tilth.core.clock import now
from tilth.core.ids import uuid7

TABLES = """SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' ORDER BY c.relname"""
SECRETS = {
    "tenants_apikey": ("secret_sha256",),
    "tenants_invitation": ("token_sha256",),
    "core_firstreply": ("request", "key", "body"),
}
"""Columns that nobody takes along: what opens a door, and replies kept for retries."""
KEPT = {
    "tenants_organisation": "without its name: usage must belong to somebody",
    "tenants_auditentry": "the one line that tells of the erasure",
    "usage_usageevent": "accounting: quantities and prices; the model's name is taken away",
    "usage_ledgerentry": "accounting",
    "usage_tally": "accounting",
    "usage_budget": "accounting",
    "usage_devicespan": "accounting, and whose turn a device was",
    "usage_hold": "given back by the fold and the sweep",
    "usage_pendingfold": "folded into the ledger",
}
"""Tables whose rows outlive a tenant, each with its reason; every other row goes."""
ERASED = "erased"
NAMELESS = (
    "UPDATE tenants_organisation SET name = 'erased', slug = 'erased' WHERE tenant_id = %s",
    "UPDATE usage_usageevent SET subject = 'erased', data = '{}' WHERE tenant_id = %s AND subject <> 'erased'",
    "DELETE FROM tenants_auditentry WHERE tenant_id = %s AND action <> 'tenant.erase'",
)


@contextmanager
def scoped(db: psycopg.Connection, tenant: UUID) -> Iterator[None]:
    """A transaction that sees this tenant's rows only, even for the owner of the tables."""
    with db.transaction():
        db.execute("SELECT set_config('tilth.tenant', %s, true)", [str(tenant)])
        yield


def tables(db: psycopg.Connection) -> list[str]:
    """Every table with a tenant."""
    return [name for (name,) in db.execute(TABLES)]


def rows_of(db: psycopg.Connection, table: str, tenant: UUID) -> Iterator[dict[str, object]]:
    """Row by row, without secrets; within ``scoped``."""
    query = sql.SQL("SELECT to_jsonb(t) FROM {} t WHERE tenant_id = %s").format(sql.Identifier(table))
    with db.cursor(name="rows") as cursor:
        cursor.execute(query, [tenant])
        for (row,) in cursor:
            yield {name: value for name, value in row.items() if name not in SECRETS.get(table, ())}


def erase_rows(db: psycopg.Connection, tenant: UUID) -> dict[str, int]:
    """Table → rows deleted, in one transaction; what accounting keeps is left nameless. Twice changes nothing."""
    with scoped(db, tenant):
        gone = {table: _delete(db, table, tenant) for table in tables(db) if table not in KEPT}
        for statement in NAMELESS:
            db.execute(statement.encode(), [tenant])
        told = db.execute("SELECT FROM tenants_auditentry WHERE tenant_id = %s", [tenant]).fetchone()
        if told is None:
            db.execute(
                "INSERT INTO tenants_auditentry (id, tenant_id, created_at, actor, action, object, detail)"
                " VALUES (%s, %s, %s, 'system', 'tenant.erase', %s, %s)",
                [uuid7(), tenant, now(), tenant.hex, json.dumps(gone)],
            )
    return {table: rows for table, rows in gone.items() if rows}


def _delete(db: psycopg.Connection, table: str, tenant: UUID) -> int:
    """References inside a tenant are checked at commit, so the order does not matter."""
    return db.execute(
        sql.SQL("DELETE FROM {} WHERE tenant_id = %s").format(sql.Identifier(table)), [tenant]
    ).rowcount  # fmt: skip
