"""A revoked key is refused by every process, also without a database; no key is in a log, error, page or table."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import psycopg
import pytest
from tilth.dataplane.fake_predictions import FakePredictions, running
from tilth.dataplane.keys import signing_key
from tilth.local.postgres import APP, OWNER, SYSTEM, Postgres

from tests.controlplane.gateway_rig import deploy

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PROCESSES = 2
WITHIN_S = 5.0
PREDICT = ("POST", "/v1/predictions", json.dumps({"model": "ft:test", "inputs": [{"text": "x"}]}).encode())
LIST = ("GET", "/v1/models", b"")
Asked = tuple[str, str, bytes]


def random_part(secret: str) -> str:
    """Without prefix, CRC and what a hint shows of it."""
    return secret[15:-6]


@dataclass
class Web:
    """One web process with its log."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def ask(self, key: str, what: Asked, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            method, path, body = what
            connection.request(method, path, body, {"Authorization": f"Bearer {key}", **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@dataclass
class Houses:
    """Several web processes on one database of their own."""

    server: Postgres
    account: dict[str, str]
    webs: list[Web]
    folder: Path
    env: dict[str, str] = field(default_factory=dict)


def manage(env: dict[str, str], *words: str) -> str:
    command = [sys.executable, "-W", "ignore", str(ROOT / "manage.py"), *words]
    return subprocess.run(command, check=True, env=env, capture_output=True, text=True, cwd=ROOT).stdout


FULL = """
from uuid import UUID
from tilth.accounts.models import User
from tilth.tenants import selectors, services
from tilth.tenants.scopes import Scope
owner, tenant = User.objects.get(email="{email}"), UUID(hex="{id}"[4:])
by = selectors.principal_of_user(owner.id, tenant)
print(services.key_create(tenant=tenant, by=by, name="all", scopes=frozenset(Scope))[1].secret)
"""
"""A key that may do everything, other keys included."""


@pytest.fixture
def houses() -> Iterator[Houses]:
    folder = Path(tempfile.mkdtemp(prefix="tilth-k-"))
    folder.chmod(0o755)
    server = Postgres(folder / "pg")  # not fast: what was committed must survive its death
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        (folder / "pg").mkdir()
        server.start()
        stack.callback(server.stop)
        plane = stack.enter_context(running(FakePredictions(signing_key().public_key())))
        roles = {"DATABASE_URL": APP, "DATABASE_URL_OWNER": OWNER, "DATABASE_URL_SYSTEM": SYSTEM}
        env = os.environ | {name: server.url(role) for name, role in roles.items()}
        env |= {"TILTH_DATAPLANE_URL": plane, "TILTH_VAR": str(folder / "var"), "TILTH_ARTIFACTS": f"file://{folder}/a"}
        env["DJANGO_SETTINGS_MODULE"] = "tilth.settings.dev"
        manage(env, "migrate", "--database", "owner", "-v", "0")
        manage(env, "sync_prices")
        account = json.loads(manage(env, "seed_demo").splitlines()[-1])
        account["key"] = manage(env, "shell", "--no-imports", "-c", FULL.format(**account)).split()[-1]
        webs = [started(stack, env, folder / f"web-{number}.log") for number in range(PROCESSES)]
        for web in webs:
            listening(web)
        yield Houses(server, account, webs, folder, env)


def started(stack: contextlib.ExitStack, env: dict[str, str], log: Path) -> Web:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "uvicorn", "tilth.asgi:application", "--port", str(port)]
    output = stack.enter_context(log.open("wb"))
    process = subprocess.Popen([*command, "--log-level", "debug"], cwd=ROOT, env=env, stdout=output, stderr=output)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return Web(process, port, log)


def listening(web: Web) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", web.port), 1):
            return
        assert web.process.poll() is None, web.log.read_text()
        time.sleep(0.1)


def superuser(server: Postgres) -> psycopg.Connection:
    return psycopg.connect(server.url("postgres"), autocommit=True)


def refused_after(web: Web, key: str, what: Asked, since: float) -> float:
    """Seconds from the revocation until the first refusal."""
    while (answer := web.ask(key, what)[0]) != 401:
        assert answer in (200, 503), answer
        assert time.monotonic() - since < WITHIN_S + 1, "it is still let in"
    return time.monotonic() - since


def test_a_revoked_key_is_refused_by_every_worker_under_load_and_without_a_database(houses: Houses) -> None:
    tenant = SimpleNamespace(id=UUID(hex=houses.account["id"][4:]))
    with superuser(houses.server) as db:
        deploy(db, tenant)
    mine = houses.account["key"]
    made = json.loads(houses.webs[0].ask(mine, ("POST", "/api/keys", b'{"name": "to end"}'), JSON)[1])
    key, ways = made["secret"], [(web, what) for web in houses.webs for what in (PREDICT, LIST)]
    assert [web.ask(key, what)[0] for web, what in ways] == [200] * len(ways)
    over = Event()

    def load(web: Web) -> None:
        while not over.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                web.ask(key, PREDICT)

    with ThreadPoolExecutor(2 * PROCESSES + len(ways)) as pool:
        try:
            for web in houses.webs * 2:
                pool.submit(load, web)
            time.sleep(1)
            revoked = houses.webs[0].ask(mine, ("DELETE", f"/api/keys/{made['id']}", b""))[0]
            since = time.monotonic()
            waits = list(pool.map(lambda way: refused_after(way[0], key, way[1], since), ways))
        finally:
            over.set()
    assert revoked == 200
    assert max(waits) < WITHIN_S
    assert {web.ask(key, what)[0] for web, what in ways for _ in range(5)} == {401}
    _never_let_in_without_a_database(houses, key, mine)


def _never_let_in_without_a_database(houses: Houses, key: str, mine: str) -> None:
    """With a second key: revoked, and the database killed in the same breath. It may be 503, never 200 again."""
    made = json.loads(houses.webs[0].ask(mine, ("POST", "/api/keys", b'{"name": "to end"}'), JSON)[1])
    second = made["secret"]
    ways = [(web, what) for web in houses.webs for what in (PREDICT, LIST)]
    assert [web.ask(second, what)[0] for web, what in ways] == [200] * len(ways)
    assert houses.webs[0].ask(mine, ("DELETE", f"/api/keys/{made['id']}", b""))[0] == 200
    assert houses.server.process is not None
    os.kill(houses.server.process.pid, signal.SIGKILL)
    houses.server.process.wait()
    time.sleep(WITHIN_S)
    with ThreadPoolExecutor(len(ways)) as pool:
        answers = set(pool.map(lambda way: way[0].ask(second, way[1])[0], ways * 2))
    assert answers <= {401, 503}, "an outage is no way in"
    houses.server.start()
    end = time.monotonic() + 60
    while time.monotonic() < end and {web.ask(second, what)[0] for web, what in ways} != {401}:
        time.sleep(0.5)
    assert {web.ask(each, what)[0] for web, what in ways for each in (key, second)} == {401}


JSON = {"Content-Type": "application/json"}
FORM = b"\r\n".join(
    [
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune',
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="rows.csv"\r\n\r\ntext,label\nx,y\n',
        b"--b--\r\n",
    ]
)


def everything(web: Web, key: str, secret_in_body: str) -> set[int]:
    """One call for each status there is, the key in the header and, by mistake, wherever else a customer pastes it."""
    pasted = json.dumps({"name": secret_in_body, "model": secret_in_body, "scopes": [secret_in_body]}).encode()
    asked: list[tuple[Asked, dict[str, str]]] = [
        (PREDICT, {}), (LIST, {}), (("POST", "/v1/files", FORM), {"Content-Type": "multipart/form-data; boundary=b"}),
        (("POST", "/v1/files", b"x"), {"Content-Type": "multipart/form-data"}), (("POST", "/v1/predictions", b"{"), {}),
        (("GET", f"/v1/models/{secret_in_body}", b""), {}), (("GET", "/v1/nowhere", b""), {}),
        (("GET", f"/v1/files?after={secret_in_body}", b""), {}), (("PUT", "/api/keys", b""), {}),
        (("POST", "/api/keys", pasted), JSON), (("POST", "/v1/predictions", pasted), {}),
        (("POST", "/api/keys", b'{"name": "made"}'), {**JSON, "Idempotency-Key": "same"}),
        (("POST", "/api/keys", b'{"name": "other"}'), {**JSON, "Idempotency-Key": "same"}),
        (("GET", "/v1/models", b""), {"Host": "evil.example"}), (("POST", "/api/budget", b"x" * (3 << 20)), JSON),
        (("POST", "/api/organisations", b'{"name": "x"}'), JSON), (("PATCH", "/api/budget", pasted), JSON),
    ]  # fmt: skip
    return {web.ask(key, what, headers)[0] for what, headers in asked}


def test_no_key_is_in_any_log_error_table_or_file(houses: Houses) -> None:
    web, key = houses.webs[0], houses.account["key"]
    with superuser(houses.server) as db:
        deploy(db, SimpleNamespace(id=UUID(hex=houses.account["id"][4:])))
        statuses = everything(web, key, key)
        wrong = key[:-1] + ("a" if key[-1] != "a" else "b")
        statuses |= {web.ask(wrong, what)[0] for what in (PREDICT, LIST)}
        db.execute("ALTER TABLE serving_deployment RENAME TO elsewhere")
        statuses |= {web.ask(key, ("GET", "/api/deployments", b""))[0], houses.webs[1].ask(key, PREDICT)[0]}
        db.execute("ALTER TABLE elsewhere RENAME TO serving_deployment")
        made = json.loads(web.ask(key, ("POST", "/api/keys", b'{"name": "last"}'), {**JSON, "Idempotency-Key": "l"})[1])
        dumped = everything_stored(db)
    assert statuses >= {200, 201, 400, 401, 403, 404, 405, 422, 500}
    secrets = [random_part(each) for each in (key, made["secret"])]
    assert all(len(each) > 15 for each in secrets)
    told = "".join(each.log.read_text(errors="replace") for each in houses.webs)
    assert "Internal Server Error" in told, "the 500 was logged"
    assert [secret for secret in secrets if secret in told] == [], "no log"
    assert [secret for secret in secrets[1:] if secret in dumped] == [], "no table, but for what was pasted into a name"
    files = [path for path in houses.folder.rglob("*") if path.is_file() and "pg" not in path.parts]
    assert [path for path in files if any(secret.encode() in path.read_bytes() for secret in secrets)] == []


def everything_stored(db: psycopg.Connection) -> str:
    """Every row of every table, as text."""
    tables = db.execute("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")
    parts = []
    for (name,) in tables.fetchall():
        parts += [str(row) for row in db.execute(f'SELECT each::text FROM "{name}" each'.encode())]
    return "\n".join(parts)


def test_a_page_shows_a_key_once_and_no_answer_shows_it_again(tenant: Any, sums_db: psycopg.Connection) -> None:
    import re

    page = tenant.browser.post("/keys", {"name": "from the page"}).content.decode()
    (secret,) = re.findall(r"tilth_live_[0-9A-Za-z]{29}", page)
    addresses = ["/", "/keys", "/files", "/jobs", "/models", "/usage", "/organisations", "/nowhere"]
    addresses += ["/api/keys", "/api/audit", "/v1/models", "/api/schema"]
    shown = [tenant.browser.get(address).content.decode() for address in addresses]
    shown += [tenant.client.get(address).content.decode() for address in addresses]
    shown.append(tenant.browser.post("/browser-key").content.decode())
    for each in (secret, tenant.key):
        assert not any(random_part(each) in text for text in shown)
        assert random_part(each) not in everything_stored(sums_db)
