"""The web process after many requests of every kind: how much memory it holds, and whether that grows."""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import uvloop
from tilth.local.ports import listener
from tilth.local.postgres import ADMIN, Postgres
from tilth.tenants.keys import new_key

from tests.bench.bench_gateway import MODEL, TENANTS, database, environment, folding, prepare, request, served

NAME = "gateway_soak"
REQUESTS = (10_000, 1_000_000)
"""Short, and full."""
CLIENTS = 24
COLD = 12_000
"""Keys and models that are asked for now and then: more than any cache of the gateway holds."""
WARM_UP = 0.25
"""Share of the requests before memory is judged: caches fill, the allocator settles."""
MOST_MB, MOST_SLOPE = 120.0, 1.0
"""Goals: resident at the end; growth in MB for each 100,000 requests."""

STATUS = {"hot": 200, "cold": 200, "stranger": 401, "malformed": 401, "nonsense": 400, "extra": 400, "no model": 404}
"""Kind of request → what it is answered; those not named here leave before they are answered."""
MIX = [
    kind
    for kind, count in {
        "hot": 68, "cold": 10, "stranger": 4, "malformed": 4, "nonsense": 4, "extra": 3, "no model": 4, "half": 1,
        "gone": 2,
    }.items()
    for _ in range(count)
]  # fmt: skip


def run(*, full: bool) -> list[dict[str, str]]:
    """The process of the product (``tilth.local.web``) over the faked data plane, with holds, ledger and disk on."""
    found = soak(REQUESTS[full])
    line = {"requests": f"{sum(found.answers.values()):,}", "requests/s": f"{found.rate:,.0f}"}
    line |= {"resident at start MB": f"{found.samples[0][1]:.0f}", "at the end MB": f"{found.samples[-1][1]:.0f}"}
    line |= {"most MB": f"{max(mb for _, mb in found.samples):.0f}", "slope MB/100k": f"{found.slope():.2f}"}
    return [line, {"requests": ", ".join(f"{kind} {count:,}" for kind, count in sorted(found.answers.items()))}]


@dataclass
class Soaked:
    """What was seen; ``answers`` counts (kind, status or "left")."""

    answers: Counter[str] = field(default_factory=Counter)
    samples: list[tuple[int, float]] = field(default_factory=list)
    """(requests done, resident MB)."""
    seconds: float = 0.0
    stored: int = 0
    """Usage events in the database."""

    @property
    def rate(self) -> float:
        """Requests each second."""
        return sum(self.answers.values()) / self.seconds

    def slope(self) -> float:
        """Least squares over the samples after the warm-up, MB for each 100,000 requests."""
        last = self.samples[-1][0]
        kept = [(done / 100_000, mb) for done, mb in self.samples if done >= WARM_UP * last]
        x, y = (sum(values) / len(kept) for values in zip(*kept, strict=True))
        spread = sum((done - x) ** 2 for done, _ in kept)
        return sum((done - x) * (mb - y) for done, mb in kept) / spread if spread else 0.0


def soak(requests: int) -> Soaked:
    """Asks so often, by CLIENTS at a time, and looks at the process all the while."""
    with ExitStack() as stack:
        home, server = stack.enter_context(database())
        env = environment(home, server)
        hot = prepare(server, env)
        cold = plant_cold(server)
        env["TILTH_DATAPLANE_URL"] = stack.enter_context(
            served("tilth.dataplane.fake_predictions:application", env, home)
        )
        url, pid = stack.enter_context(web(env, home))
        stack.enter_context(folding(env))
        found = uvloop.run(Crowd(url, hot, cold, pid, requests).work())
        with psycopg.connect(server.url(ADMIN)) as db:
            found.stored = (db.execute("SELECT count(*) FROM usage_usageevent").fetchone() or (0,))[0]
    return found


def plant_cold(server: Postgres) -> list[str]:
    """Keys, and a model of each one's own named ``<MODEL>:<number>``, dealt out to the organisations; the secrets."""
    keys = [new_key() for _ in range(COLD)]
    facts = [(number, key.sha256, key.prefix, key.last4) for number, key in enumerate(keys)]
    with psycopg.connect(server.url(ADMIN)) as db:
        db.execute("SET session_replication_role = replica")
        tenants = [row[0] for row in db.execute("SELECT tenant_id FROM tenants_apikey ORDER BY id")]
        db.execute("CREATE TEMP TABLE cold (number int, sha256 text, prefix text, last4 text)")
        with db.cursor() as cursor, cursor.copy("COPY cold FROM STDIN") as copy:
            for row in facts:
                copy.write_row(row)
        for table, changed in COPIES.items():
            found = db.execute("SELECT column_name FROM information_schema.columns WHERE table_name = %s", [table])
            columns = [row[0] for row in found]
            values = ", ".join(changed.get(column, f"one.{column}") for column in columns)
            db.execute(
                f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM cold"
                f" JOIN {table} one ON one.tenant_id = (%s::uuid[])[1 + number %% {len(tenants)}]",
                [tenants],
            )
    return [key.secret for key in keys]


COPIES = {
    "tenants_apikey": {"id": "gen_random_uuid()", "secret_sha256": "sha256", "prefix": "cold.prefix",
                       "last4": "cold.last4"},
    "serving_deployment": {"id": "gen_random_uuid()", "name": f"'{MODEL}:' || number"},
}  # fmt: skip
"""Table → column → what a copy has there instead of the original's."""


@contextmanager
def web(env: dict[str, str], home: Path) -> Iterator[tuple[str, int]]:
    """The product's web process on a socket of ours: (URL, process id)."""
    held = listener(0)
    log = home / "web.log"
    command = [sys.executable, "-W", "ignore", "-m", "tilth.local.web", str(held.fileno())]
    with log.open("w") as file:
        process = subprocess.Popen(command, env=env, stdout=file, stderr=file, pass_fds=[held.fileno()])
    try:
        while "Application startup complete" not in log.read_text():
            if process.poll() is not None:
                raise RuntimeError(f"the web process did not start: {log.read_text()[-2000:]}")
            time.sleep(0.05)
        host, port = held.getsockname()[:2]
        yield f"http://{host}:{port}", process.pid
    finally:
        process.terminate()
        process.wait(60)
        held.close()


class Crowd:
    """CLIENTS kept-alive connections that take the next request each, until there are no more."""

    def __init__(self, url: str, hot: list[str], cold: list[str], pid: int, requests: int) -> None:
        self._url, self._hot, self._cold, self._pid = url, hot, cold, pid
        self._place = urlsplit(url)
        self._numbers = iter(range(requests))
        self._told_at = range(requests // 20, requests, max(1, requests // 20))
        self._seen = Soaked()

    async def work(self) -> Soaked:
        """All of it; raises RuntimeError for an answer that should have been another."""
        began = time.monotonic()
        watching = asyncio.create_task(self._watch())
        await asyncio.gather(*[self._client() for _ in range(CLIENTS)])
        watching.cancel()
        self._look()
        self._seen.seconds = time.monotonic() - began
        return self._seen

    async def _watch(self) -> None:
        """Tells how it goes, since the whole takes long."""
        for at in self._told_at:
            while sum(self._seen.answers.values()) < at:
                self._look()
                await asyncio.sleep(1)
            print("  {:,} requests, {:.1f} MB".format(*self._seen.samples[-1]), flush=True)

    def _look(self) -> None:
        status = Path(f"/proc/{self._pid}/status").read_text()
        resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        self._seen.samples.append((sum(self._seen.answers.values()), int(resident.split()[1]) / 1024))

    async def _client(self) -> None:
        reader, writer = await self._connected()
        for number in self._numbers:
            kind = MIX[number % len(MIX)]
            content = self._request(kind, number)
            writer.write(content if kind != "half" else content[: len(content) // 2])
            if kind in STATUS:
                status = await _answered(reader)
                if status != STATUS[kind]:
                    raise RuntimeError(f"request {number} ({kind}) was answered {status}, expected {STATUS[kind]}")
                self._seen.answers[f"{kind} {status}"] += 1
            else:
                await writer.drain()
                await asyncio.sleep(0.002)  # under way when its client leaves
                writer.transport.abort()
                self._seen.answers[f"{kind} left"] += 1
                reader, writer = await self._connected()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._place.hostname, self._place.port)

    def _request(self, kind: str, number: int) -> bytes:
        key, model = self._hot[number % TENANTS], MODEL
        row: dict[str, object] = {"text": f"message {number}: my new card has not arrived yet, what should I do now?"}
        match kind:
            case "cold":
                cold = number * 7 % COLD
                key, model = self._cold[cold], f"{MODEL}:{cold}"
            case "stranger":
                key = new_key().secret
            case "malformed":
                key = f"tilth_live_{number}"
            case "no model":
                model = f"ft:minilm-l6:bench:{number}"
            case "nonsense":
                return request(self._url, "/v1/predictions", None, key).replace(b"null", b'{"a:')
        asked = {"model": model, "inputs": [row], **({"extra": number} if kind == "extra" else {})}
        return request(self._url, "/v1/predictions", asked, key)


async def _answered(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.partition(b":")[2]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    )
    await reader.readexactly(length)
    return int(head[9:12])


if __name__ == "__main__":
    seen = soak(int(sys.argv[1]))
    print(json.dumps({"answers": seen.answers, "samples": seen.samples, "stored": seen.stored, "slope": seen.slope()}))
