"""The embedded PostgreSQL: durable over kill -9, several side by side, nobody mighty, runs as root and not as root."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tilth.local.places import forget_aside, socket_folder
from tilth.local.postgres import ADMIN, APP, OWNER, ROLES, SYSTEM, Postgres, PostgresFailed, temporary_postgres

pytestmark = pytest.mark.slow


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A socket's path must be short, and pytest's folders are closed to PostgreSQL's user."""
    folder = Path(tempfile.mkdtemp(prefix="tilth-p-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def one(server: Postgres, role: str, query: str) -> object:
    with psycopg.connect(server.url(role)) as connection:
        row = connection.execute(query).fetchone()
        assert row is not None
        return row[0]


def test_what_was_committed_survives_kill_9(short_folder: Path) -> None:
    server = Postgres(short_folder)
    server.start()
    try:
        with psycopg.connect(server.url(OWNER)) as owner:
            owner.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        assert server.process is not None
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        server.start()
        assert one(server, OWNER, "SELECT answer FROM kept") == 42
    finally:
        server.stop()


def test_a_lock_that_names_another_living_process_does_not_keep_it_from_starting(short_folder: Path) -> None:
    server = Postgres(short_folder, fast=True)
    server.start()
    server.stop()
    lock = short_folder / "data" / "postmaster.pid"
    lock.write_text(f"{os.getpid()}\n{server.data}\n0\n5432\n\n\n0 0\n")
    shutil.copy(lock, server.run / ".s.PGSQL.5432.lock")
    server.start()
    try:
        assert one(server, OWNER, "SELECT 42") == 42
    finally:
        server.stop()


def test_two_servers_run_side_by_side_and_no_role_is_mighty() -> None:
    with temporary_postgres() as first, temporary_postgres() as second:
        for server in (first, second):
            for role in ROLES:
                might = f"SELECT rolsuper OR rolbypassrls OR rolcreaterole FROM pg_roles WHERE rolname = '{role}'"
                assert one(server, role, might) is False
                assert one(server, role, "SELECT current_user") == role
            assert one(server, ADMIN, "SHOW listen_addresses") == ""
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(first.url(APP).replace(first.passwords()[APP], second.passwords()[APP]))


def test_only_the_owner_makes_tables() -> None:
    with temporary_postgres() as server:
        for role in (APP, SYSTEM):
            with psycopg.connect(server.url(role)) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("CREATE TABLE public.foreign_body (id int)")


def test_secrets_are_readable_by_us_alone(short_folder: Path) -> None:
    server = Postgres(short_folder)
    assert len(server.passwords()) == 4
    assert (short_folder / "passwords").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can lend another user's name")
def test_as_root_the_server_is_another_users_process_in_a_folder_it_can_enter(short_folder: Path) -> None:
    closed = short_folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(PostgresFailed, match="cannot enter"):
        Postgres(closed / "pg").start()
    server = Postgres(short_folder / "pg", fast=True)
    server.start()
    assert server.process is not None
    assert Path(f"/proc/{server.process.pid}").stat().st_uid != 0
    server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become nobody")
def test_an_unprivileged_user_runs_it_as_itself(short_folder: Path) -> None:
    shutil.chown(short_folder, "nobody")
    code = f"""
import os, pwd
from pathlib import Path
from tilth.local.postgres import Postgres, temporary_postgres
with temporary_postgres():
    pass  # loads what is imported late, since nobody may not read a Python that lies in root's home
user = pwd.getpwnam("nobody")
os.setgroups([])
os.setgid(user.pw_gid)
os.setuid(user.pw_uid)
server = Postgres(Path({str(short_folder)!r}) / "pg", fast=True)
server.start()
print(os.getuid() == os.stat(f"/proc/{{server.process.pid}}").st_uid != 0)
server.stop()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_socket_beside_a_long_path_serves_the_second_start_too(short_folder: Path) -> None:
    var = short_folder / ("long" * 20)
    try:
        for _ in range(2):
            server = Postgres(var / "postgres", sockets=socket_folder(var / "postgres", var), fast=True)
            server.start()
            try:
                assert one(server, OWNER, "SELECT 42") == 42
            finally:
                server.stop()
    finally:
        forget_aside(var)
