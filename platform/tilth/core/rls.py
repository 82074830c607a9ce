"""Row-level security: migration operations that lock a tenant's table; the refusal of roles that see past it."""

from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.operations.base import Operation

from tilth.core.models import TenantForeignKey

# After a transaction the setting is an empty string, not NULL; the sub-select is evaluated once per query, not per row.
MINE = "tenant_id = (SELECT nullif(current_setting('tilth.tenant', true), '')::uuid)"


def app_role() -> str:
    """The role the product works as."""
    return str(settings.DATABASES["default"]["USER"])


def system_role() -> str:
    """The role that reads across tenants, on listed tables only."""
    return str(settings.DATABASES["system"]["USER"])


class OwnerMigrates:
    """Database router: only the owner's connection changes the schema."""

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        """True for the owner."""
        return db == "owner"


class Sql(Operation):
    """A reversible operation of plain statements; subclasses give both directions."""

    reduces_to_sql = True
    reversible = True

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Django's picture of the models does not change."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Runs the forward statements."""
        for statement in self.forwards(app_label, to_state):
            schema_editor.execute(statement, params=None)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Runs the backward statements."""
        for statement in self.backwards(app_label, from_state):
            schema_editor.execute(statement, params=None)

    def forwards(self, app_label: str, state: Any) -> list[str]:
        """The statements that apply the operation."""
        raise NotImplementedError

    def backwards(self, app_label: str, state: Any) -> list[str]:
        """The statements that take it back."""
        raise NotImplementedError


class Privileges(Sql):
    """What the roles may do with tables made later; first of all migrations, since a GRANT misses later tables."""

    def forwards(self, app_label: str, state: Any) -> list[str]:
        """Usage of the schema; rows for the app; nothing yet for the system role."""
        app, system = app_role(), system_role()
        return [
            f'GRANT USAGE ON SCHEMA public TO "{app}", "{system}"',
            f'ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO "{app}"',
            f'ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO "{app}"',
        ]

    def backwards(self, app_label: str, state: Any) -> list[str]:
        """Takes them back."""
        app, system = app_role(), system_role()
        return [
            f'ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE ALL ON TABLES FROM "{app}"',
            f'ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE ALL ON SEQUENCES FROM "{app}"',
            f'REVOKE USAGE ON SCHEMA public FROM "{app}", "{system}"',
        ]


class TenantTable(Sql):
    """Locks a model's table to its tenant: FORCE row-level security, the policy, composite foreign keys.

    ``append_only`` takes UPDATE and DELETE from the app; ``system_reads`` lets the system role SELECT every row.
    """

    def __init__(self, model: str, *, append_only: bool = False, system_reads: bool = False) -> None:
        self.model = model
        self.append_only = append_only
        self.system_reads = system_reads

    def describe(self) -> str:
        """For ``migrate``'s output."""
        return f"Lock {self.model} to its tenant"

    def forwards(self, app_label: str, state: Any) -> list[str]:
        """Security first, then references, then privileges."""
        model = state.apps.get_model(app_label, self.model)
        table = model._meta.db_table
        statements = [
            f'ALTER TABLE "{table}" ENABLE ROW LEVEL SECURITY',
            f'ALTER TABLE "{table}" FORCE ROW LEVEL SECURITY',
            f'CREATE POLICY tenant_isolation ON "{table}" USING ({MINE}) WITH CHECK ({MINE})',
            *[_reference(table, column, to) for column, to in _references(model)],
        ]
        if self.append_only:
            statements.append(f'REVOKE UPDATE, DELETE, TRUNCATE ON "{table}" FROM "{app_role()}"')
        if self.system_reads:
            statements.append(f'GRANT SELECT ON "{table}" TO "{system_role()}"')
            statements.append(f'CREATE POLICY system_reads ON "{table}" FOR SELECT TO "{system_role()}" USING (true)')
        return statements

    def backwards(self, app_label: str, state: Any) -> list[str]:
        """The reverse, in reverse."""
        model = state.apps.get_model(app_label, self.model)
        table = model._meta.db_table
        statements = []
        if self.system_reads:
            statements.append(f'DROP POLICY system_reads ON "{table}"')
            statements.append(f'REVOKE SELECT ON "{table}" FROM "{system_role()}"')
        if self.append_only:
            statements.append(f'GRANT UPDATE, DELETE ON "{table}" TO "{app_role()}"')
        dropped = [
            f'ALTER TABLE "{table}" DROP CONSTRAINT "{_name(table, column)}"' for column, _ in _references(model)
        ]
        return [
            *statements,
            *dropped,
            f'DROP POLICY tenant_isolation ON "{table}"',
            f'ALTER TABLE "{table}" NO FORCE ROW LEVEL SECURITY',
            f'ALTER TABLE "{table}" DISABLE ROW LEVEL SECURITY',
        ]


class TenantReference(Sql):
    """The composite foreign key of a reference that a locked table got later."""

    def __init__(self, model: str, field: str) -> None:
        self.model = model
        self.field = field

    def describe(self) -> str:
        """For ``migrate``'s output."""
        return f"Keep {self.model}.{self.field} inside its tenant"

    def forwards(self, app_label: str, state: Any) -> list[str]:
        """The constraint."""
        model = state.apps.get_model(app_label, self.model)
        column = model._meta.get_field(self.field).column
        return [_reference(model._meta.db_table, column, dict(_references(model))[column])]

    def backwards(self, app_label: str, state: Any) -> list[str]:
        """Drops it."""
        model = state.apps.get_model(app_label, self.model)
        table = model._meta.db_table
        return [f'ALTER TABLE "{table}" DROP CONSTRAINT "{_name(table, model._meta.get_field(self.field).column)}"']


class LookupPolicy(Sql):
    """A read before the tenant is known: the app sees the rows whose column equals a setting (a key's hash, a user)."""

    def __init__(self, model: str, *, name: str, column: str, setting: str, cast: str = "text") -> None:
        self.model = model
        self.name = name
        self.column = column
        self.setting = setting
        self.cast = cast

    def describe(self) -> str:
        """For ``migrate``'s output."""
        return f"Let {self.model} be found by {self.column}"

    def forwards(self, app_label: str, state: Any) -> list[str]:
        """One SELECT policy for the app's role."""
        table = state.apps.get_model(app_label, self.model)._meta.db_table
        found = f"\"{self.column}\" = (SELECT nullif(current_setting('{self.setting}', true), '')::{self.cast})"
        return [f'CREATE POLICY "{self.name}" ON "{table}" FOR SELECT TO "{app_role()}" USING ({found})']

    def backwards(self, app_label: str, state: Any) -> list[str]:
        """Drops it."""
        table = state.apps.get_model(app_label, self.model)._meta.db_table
        return [f'DROP POLICY "{self.name}" ON "{table}"']


def _references(model: Any) -> list[tuple[str, str]]:
    """(column, referred table) of each reference inside the tenant."""
    fields = [field for field in model._meta.local_fields if isinstance(field, TenantForeignKey)]
    return [(field.column, field.related_model._meta.db_table) for field in fields]


def _reference(table: str, column: str, to: str) -> str:
    return (
        f'ALTER TABLE "{table}" ADD CONSTRAINT "{_name(table, column)}" FOREIGN KEY (tenant_id, "{column}")'
        f' REFERENCES "{to}" (tenant_id, id) DEFERRABLE INITIALLY DEFERRED'
    )


def _name(table: str, column: str) -> str:
    return f"{table}_{column}_in_tenant"


_checked: set[str] = set()
MIGHTY = """SELECT rolsuper OR rolbypassrls, EXISTS (
    SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'public' AND c.relkind = 'r' AND pg_has_role(current_user, c.relowner, 'USAGE'))
FROM pg_roles WHERE rolname = current_user"""


def refuse_mighty_role(connection: BaseDatabaseWrapper, **_: Any) -> None:
    """Refuses to work through a role that row-level security does not bind; asked once per process and alias."""
    if connection.alias == "owner" or connection.alias in _checked:
        return
    with connection.cursor() as cursor:
        cursor.execute(MIGHTY)
        unbound, owns = cursor.fetchone() or (False, False)
    if unbound or owns:
        why = "is a superuser or has BYPASSRLS" if unbound else "owns tables"
        url = "DATABASE_URL" if connection.alias == "default" else "DATABASE_URL_SYSTEM"
        role = connection.settings_dict["USER"]
        raise ImproperlyConfigured(f"the role {role!r} of {url} {why}: it would see every tenant; give it a plain role")
    _checked.add(connection.alias)


def refuse_mighty_roles() -> None:
    """The same, asked at start-up for both roles that serve requests."""
    for alias in ("default", "system"):
        connections[alias].ensure_connection()
        refuse_mighty_role(connections[alias])
        connections[alias].close()
