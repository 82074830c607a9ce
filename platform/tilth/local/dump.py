"""One snapshot of the database as a superuser sees it: every tenant's rows, by PostgreSQL's own pg_dump."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tilth.core.deletions import BACKUP
from tilth.local.manifest import BackupRefused

LIBPQ = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
TABLES = (
    """SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY relname"""
)
SEES_ALL = "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user"
PLACES = """SELECT c.table_name, EXISTS (SELECT FROM information_schema.columns d
        WHERE d.table_schema = 'public' AND d.table_name = c.table_name AND d.column_name = 'deleted_at')
    FROM information_schema.columns c WHERE c.table_schema = 'public' AND c.column_name = 'path'"""

GONE = {
    "training_checkpoint": sql.SQL(
        "AND NOT EXISTS (SELECT FROM training_job j WHERE j.id = job_id AND j.finished_at IS NOT NULL)"
    ),
    "batches_chunk": sql.SQL(
        "AND NOT EXISTS (SELECT FROM batches_batch b WHERE b.id = batch_id AND b.finished_at IS NOT NULL)"
    ),
}
"""Table → which of its rows outlive their bytes, where no ``deleted_at`` says so: nobody goes on from an ended job, and
an ended batch has its answers in its files.
"""


@dataclass(frozen=True)
class Snapshot:
    """What the database holds at one moment, while a transaction keeps it."""

    id: str
    made_at: str
    migrations: list[str]
    rows: dict[str, int]
    objects: list[str]
    """Paths below TILTH_ARTIFACTS that living rows name; a folder ends with a slash."""


@contextmanager
def snapshot(url: str) -> Iterator[Snapshot]:
    """Kept for the time of the block, and so long nothing that rows name is deleted from storage."""
    with _connected(url) as db:
        if not (db.execute(SEES_ALL).fetchone() or [False])[0]:
            raise BackupRefused("the role of DATABASE_URL_ADMIN does not see past row-level security; give a superuser")
        db.execute("SELECT pg_advisory_lock(%s)", [BACKUP])
        with db.transaction():
            db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield _taken(db)
        db.execute("SELECT pg_advisory_unlock(%s)", [BACKUP])  # closing frees it, too, but a moment later


def _taken(db: psycopg.Connection) -> Snapshot:
    tables = [name for (name,) in db.execute(TABLES)]
    exported = db.execute("SELECT pg_export_snapshot()").fetchone()
    rows = {table: _count(db, table) for table in tables}
    migrations = [f"{app}.{name}" for app, name in db.execute("SELECT app, name FROM django_migrations ORDER BY 1, 2")]
    return Snapshot(str(exported and exported[0]), datetime.now(UTC).isoformat(), migrations, rows, _objects(db))


def count_rows(url: str) -> dict[str, int]:
    """Table → rows."""
    with _connected(url) as db:
        return {table: _count(db, table) for (table,) in db.execute(TABLES).fetchall()}


def organisations(url: str) -> set[UUID]:
    """Every tenant."""
    with _connected(url) as db:
        return {tenant for (tenant,) in db.execute("SELECT tenant_id FROM tenants_organisation")}


def _count(db: psycopg.Connection, table: str) -> int:
    found = db.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()
    return int(found[0]) if found else 0


def _objects(db: psycopg.Connection) -> list[str]:
    found: list[str] = []
    for table, mortal in db.execute(PLACES).fetchall():
        living = GONE.get(table, sql.SQL("AND deleted_at IS NULL" if mortal else ""))
        query = sql.SQL("SELECT path FROM {} WHERE path <> '' {}").format(sql.Identifier(table), living)
        found += [path for (path,) in db.execute(query)]
    return found


def dump(programs: Path, url: str, taken: Snapshot, to: Path) -> None:
    """Schema, grants, policies and rows in PostgreSQL's custom format, compressed."""
    _run(programs / "pg_dump", url, "--format=custom", f"--snapshot={taken.id}", f"--file={to}")


def load(programs: Path, url: str, dumped: Path) -> None:
    """Into an empty database whose roles are there; whole or not at all."""
    refuse_full_database(url)
    database = conninfo_to_dict(url)["dbname"]
    _run(programs / "pg_restore", url, "--exit-on-error", "--single-transaction", f"--dbname={database}", str(dumped))


def _connected(url: str) -> psycopg.Connection:
    try:
        return psycopg.connect(url, autocommit=True, connect_timeout=10, application_name="tilth backup")
    except psycopg.OperationalError as cause:
        raise BackupRefused(f"the database cannot be reached ({cause}); is the product running?") from cause


def refuse_full_database(url: str) -> None:
    """Raises BackupRefused for one that has a table."""
    with _connected(url) as db:
        if found := db.execute(TABLES).fetchone():
            raise BackupRefused(f"the database is not empty (it has the table {found[0]}); restore into a fresh one")


def _run(program: Path, url: str, *arguments: str) -> None:
    """The password goes by the environment: arguments are read by everybody on the machine."""
    facts = conninfo_to_dict(url)
    env = {name: str(facts[key]) for key, name in LIBPQ.items() if facts.get(key)}
    done = subprocess.run([program, *arguments], env={"PATH": os.defpath, **env}, capture_output=True, text=True)
    if done.returncode:
        raise BackupRefused(f"{program.name} failed: {done.stderr.strip()[-2000:]}")
