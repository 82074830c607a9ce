"""What the gateway adds to a prediction: key, hold, settlement, ledger and disk on, data plane faked, one process."""

import asyncio
import json
import os
import re
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import psycopg
import uvloop
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tilth.local.postgres import ADMIN, APP, OWNER, SYSTEM, Postgres

NAME = "gateway"
ROOT = Path(__file__).resolve().parents[2]
TENANTS = 8
DIGEST = "sha256:" + "ab" * 32
ROW = {"text": "my new card has not arrived yet and it has been two weeks, what should I do now?"}
MODEL = "ft:minilm-l6:bench:intents:0123abcd"


def run(*, full: bool) -> list[dict[str, str]]:
    """Alone for latency, 32 and 64 clients for throughput; gateway and fake by turns, the median of the rounds."""
    rounds, seconds = (5, 5.0) if full else (3, 2.0)
    with ExitStack() as stack:
        home, server = stack.enter_context(database())
        env = environment(home, server)
        keys = prepare(server, env)
        fake = stack.enter_context(served("tilth.dataplane.fake_predictions:application", env, home))
        env["TILTH_DATAPLANE_URL"] = fake
        gateway = stack.enter_context(served("tilth.asgi:application", env, home))
        stack.enter_context(folding(env))
        targets = {"the fake directly": request(fake, "/predictions", DIRECT), "through the gateway": b""}
        rows = []
        for clients in (1, 32, 64):
            measured: dict[str, list[tuple[float, float, float]]] = {name: [] for name in targets}
            for _ in range(rounds):
                direct = [targets["the fake directly"]] * clients
                measured["the fake directly"].append(uvloop.run(load(fake, direct, seconds)))
                asked = [request(gateway, "/v1/predictions", ASKED, keys[n % TENANTS]) for n in range(clients)]
                measured["through the gateway"].append(uvloop.run(load(gateway, asked, seconds)))
            rows += shown(clients, measured)
        rows.append({"clients": "", "path": "sums", **sums(server)})
    return rows


ASKED = {"model": MODEL, "inputs": [ROW]}
GRANT = {
    "url": "file:///x/",
    "method": "read",
    "sha256": None,
    "key": "0" * 64,
    "expires_at": 0,
    "signature": "0" * 128,
}
DIRECT = {
    "flow": "0" * 16,
    "model": {"digest": DIGEST, "folder": GRANT, "vertical": "support_chat", "base_model": "minilm-l6"},
    "inputs": [ROW],
    "deadline_ms": 30_000,
}


def shown(clients: int, measured: dict[str, list[tuple[float, float, float]]]) -> list[dict[str, str]]:
    """One line for each path; medians over the rounds."""
    medians = {
        name: [statistics.median(values) for values in zip(*rounds, strict=True)] for name, rounds in measured.items()
    }
    base = medians["the fake directly"]
    lines = []
    for name, (rate, p50, p99) in medians.items():
        line = {"clients": str(clients), "path": name, "requests/s": f"{rate:,.0f}", "p50 ms": f"{p50:.2f}"}
        line |= {"p99 ms": f"{p99:.2f}"}
        if name != "the fake directly":
            line |= {"added p50 ms": f"{p50 - base[1]:.2f}", "of the fake's rate": f"{rate / base[0]:.2f}"}
        lines.append(line)
    return lines


def sums(server: Postgres) -> dict[str, str]:
    """Answered by the gateway = stored, counted by the database."""
    with psycopg.connect(server.url(ADMIN)) as db:
        row = db.execute("SELECT count(*) FROM usage_usageevent").fetchone() or (0,)
    return {"requests/s": f"{row[0]:,} stored, {ANSWERED[0]:,} answered"}


ANSWERED = [0]


@contextmanager
def database() -> Iterator[tuple[Path, Postgres]]:
    """A fresh folder with a server in it, for the time of the block."""
    home = Path(tempfile.mkdtemp(prefix="tilth-b-"))
    home.chmod(0o755)
    server = Postgres(home / "pg")
    server.folder.mkdir()
    try:
        server.start()
        yield home, server
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


def environment(home: Path, server: Postgres) -> dict[str, str]:
    """Of the processes under measurement."""
    key = Ed25519PrivateKey.generate()
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (home / "signing.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return os.environ | {
        "DJANGO_SETTINGS_MODULE": "tilth.settings.dev",
        "TILTH_VAR": str(home),
        "TILTH_SECRET_KEY": secrets.token_hex(),
        "TILTH_SIGNING_KEY": str(home / "signing.pem"),
        "DATABASE_URL": server.url(APP),
        "DATABASE_URL_OWNER": server.url(OWNER),
        "DATABASE_URL_SYSTEM": server.url(SYSTEM),
    }


def prepare(server: Postgres, env: dict[str, str]) -> list[str]:
    """Migrates and makes organisations with a key and a model each; returns the keys."""
    migrate = [sys.executable, "-W", "ignore", str(ROOT / "manage.py"), "migrate", "--database", "owner", "-v", "0"]
    subprocess.run(migrate, env=env, check=True)
    made = subprocess.run([sys.executable, __file__, str(TENANTS)], env=env, check=True, capture_output=True, text=True)
    organisations: dict[str, str] = json.loads(made.stdout)
    with psycopg.connect(server.url(ADMIN)) as db:
        db.execute("SET session_replication_role = replica")  # a model without a job behind it
        for tenant in organisations:
            path = f"tenants/{UUID(tenant).hex}/jobs/bench/model/"
            db.execute(PLANT, {"tenant": tenant, "name": MODEL, "path": path, "digest": DIGEST})
    return list(organisations.values())


PLANT = """WITH model AS (
    INSERT INTO registry_model (id, tenant_id, created_at, name, job_id, version_id, version_sha256, vertical,
        base_model, base_revision, path, digest, rung, metrics, report, card, served_by)
    VALUES (gen_random_uuid(), %(tenant)s, now(), %(name)s, gen_random_uuid(), gen_random_uuid(), '', 'support_chat',
        'minilm-l6', '', %(path)s, %(digest)s, 'probe', '{}', '{}', '', 'stacked') RETURNING id)
INSERT INTO serving_deployment (id, tenant_id, created_at, name, model_id)
SELECT gen_random_uuid(), %(tenant)s, now(), %(name)s, id FROM model"""


def seed(count: int) -> dict[str, str]:
    """Runs in a process of its own, with Django: tenant → secret of its key."""
    import django

    django.setup()
    from tilth.accounts.models import User
    from tilth.tenants import selectors, services
    from tilth.usage.services import budget_change, price_current

    price_current(unit="prediction.tokens")
    keys = {}
    for number in range(count):
        owner = User.objects.create_user(f"{number}@example.org", secrets.token_hex())
        tenant = services.organisation_create(name=f"Bench {number}", owner=owner.id)
        principal = selectors.principal_of_user(owner.id, tenant)
        if principal is None:
            raise RuntimeError("the owner of a new organisation is no member of it")
        budget_change(tenant=tenant, by=principal, limit_micro_usd=10**12)
        _, text = services.key_create(tenant=tenant, by=principal, name="bench")
        keys[str(tenant)] = text.secret
    return keys


@contextmanager
def folding(env: dict[str, str]) -> Iterator[None]:
    """The worker's fold, once a second, in a process of its own."""
    process = subprocess.Popen([sys.executable, __file__, "fold"], env=env)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def fold_for_ever() -> None:
    """Until it is terminated."""
    import django

    django.setup()
    from tilth.usage.fold import fold_once

    while True:
        fold_once()
        time.sleep(1)


@contextmanager
def served(app: str, env: dict[str, str], home: Path) -> Iterator[str]:
    """One uvicorn process on a free port; yields its URL."""
    log = home / f"{app.partition(':')[0]}.log"
    command = [sys.executable, "-m", "uvicorn", app, "--port", "0", "--no-access-log", "--loop", "uvloop"]
    with log.open("w") as file:
        process = subprocess.Popen([*command, "--http", "httptools", "--ws", "none"], env=env, stderr=file, stdout=file)
    try:
        yield _address(log, process)
    finally:
        process.terminate()
        process.wait(60)


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    for _ in range(600):
        if found := re.search(r"running on (http://[\d.:]+)", log.read_text()):
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"uvicorn did not start: {log.read_text()[-2000:]}")


def request(url: str, path: str, body: object, key: str = "none") -> bytes:
    """A whole request, ready to be sent again and again."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nAuthorization: Bearer {key}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


async def load(url: str, requests: list[bytes], seconds: float) -> tuple[float, float, float]:
    """Each client sends its request as soon as the last is answered: (requests/s, p50 ms, p99 ms) after a warm-up."""
    loop, place = asyncio.get_running_loop(), urlsplit(url)
    clients = [Client(content) for content in requests]
    for client in clients:
        await loop.create_connection(partial(itself, client), place.hostname or "", place.port or 0)
    await asyncio.sleep(seconds / 4)
    for client in clients:
        client.took.clear()
    started = time.perf_counter()
    await asyncio.sleep(seconds)
    took = sorted(each for client in clients for each in client.took)
    rate = len(took) / (time.perf_counter() - started)
    await asyncio.gather(*[client.stop() for client in clients])
    if "/v1/" in requests[0][:40].decode():
        ANSWERED[0] += sum(client.answered for client in clients)
    return rate, statistics.median(took) * 1000, took[len(took) * 99 // 100] * 1000


def itself(client: "Client") -> "Client":
    """A factory of one."""
    return client


class Client(asyncio.Protocol):
    """One kept-alive connection with one request under way."""

    def __init__(self, content: bytes) -> None:
        self.took: list[float] = []
        self.answered = 0
        self._content = content
        self._received = b""
        self._whole = 0
        self._last = asyncio.Event()
        self._stopped = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._whole:
            self._whole = self._size()
        if self._whole and len(self._received) >= self._whole:
            self._done()

    def connection_lost(self, exc: Exception | None) -> None:
        self._last.set()

    async def stop(self) -> None:
        """After the answer that is under way."""
        self._stopped = True
        await self._last.wait()
        self._transport.close()

    def _ask(self) -> None:
        self._received, self._whole, self._began = b"", 0, time.perf_counter()
        self._transport.write(self._content)  # type: ignore[attr-defined]

    def _done(self) -> None:
        if not self._received.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(self._received.decode())
        self.took.append(time.perf_counter() - self._began)
        self.answered += 1
        if self._stopped:
            self._last.set()
        else:
            self._ask()

    def _size(self) -> int:
        head, end, _ = self._received.partition(b"\r\n\r\n")
        if not end:
            return 0
        length = re.search(rb"content-length: (\d+)", head.lower())
        return len(head) + 4 + (int(length[1]) if length else 0)


if __name__ == "__main__":
    if sys.argv[1] == "fold":
        fold_for_ever()
    print(json.dumps(seed(int(sys.argv[1]))))
