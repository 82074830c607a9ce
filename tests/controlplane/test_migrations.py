"""Every migration of ours is taken back and done again: what an operator does when a release must be withdrawn."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tilth.local.postgres import OWNER

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
OURS = ("serving", "registry", "training", "datasets", "usage", "tenants")
"""Apps with tables, those that refer to others first."""
NAME = "tilth_there_and_back"


@pytest.fixture
def migrate(database: Any) -> Iterator[Callable[..., None]]:
    """``manage.py migrate`` on a database of its own."""
    there = database.url("postgres").replace("/tilth?", "/postgres?")
    with psycopg.connect(there, autocommit=True) as server:
        server.execute(f'CREATE DATABASE {NAME} OWNER "{OWNER}"')
    url = database.url(OWNER).replace("/tilth?", f"/{NAME}?")
    command = [sys.executable, "-W", "ignore", str(ROOT / "manage.py"), "migrate", "--database", "owner", "-v", "0"]

    def run(*arguments: str) -> None:
        done = subprocess.run(
            [*command, *arguments], env=os.environ | {"DATABASE_URL_OWNER": url}, capture_output=True, text=True
        )  # fmt: skip
        assert done.returncode == 0, f"{arguments}: {done.stderr[-3000:]}"

    yield run
    with psycopg.connect(there, autocommit=True) as server:
        server.execute(f"DROP DATABASE {NAME} WITH (FORCE)")


def schema(database: Any) -> list[Any]:
    """Columns, constraints, policies and rights of every table of ours."""
    with psycopg.connect(database.url("postgres").replace("/tilth?", f"/{NAME}?")) as db:
        return [
            db.execute(query).fetchall()
            for query in (
                "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns"
                " WHERE table_schema = 'public' ORDER BY 1, 2",
                "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
                " WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2",
                "SELECT tablename, policyname, roles::text, cmd, qual FROM pg_policies ORDER BY 1, 2",
                "SELECT relname, relrowsecurity, relforcerowsecurity, relacl::text FROM pg_class"
                " WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1",
            )
        ]


def test_all_the_way_back_and_forth_gives_the_same_schema(database: Any, migrate: Callable[..., None]) -> None:
    migrate()
    before = schema(database)
    assert len(before[0]) > 100
    for app in OURS:
        migrate(app, "zero")
    migrate("core", "0001")  # its privileges come before the queue's tables, which their makers never take back
    left = {table.partition("_")[0] for table, *_ in schema(database)[3]}
    assert not left & {*OURS, "core"}
    migrate()
    assert schema(database) == before


def test_the_newest_migrations_are_taken_back_one_by_one(database: Any, migrate: Callable[..., None]) -> None:
    migrate()
    before = schema(database)
    for app, name in (("training", "0003"), ("datasets", "0005"), ("registry", "0003"), ("core", "0003")):
        migrate(app, name)
    assert schema(database) != before
    migrate()
    assert schema(database) == before
