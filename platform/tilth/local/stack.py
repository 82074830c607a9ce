"""The product on one machine: which parts there are, their environment, ports and folders."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tilth.local.children import Child, Database, Once, Part
from tilth.local.keys import make_keys
from tilth.local.places import cluster_folder, programs_folder, ray_folder, socket_folder
from tilth.local.ports import HOST, free_ports, listening, preferred
from tilth.local.postgres import APP, OWNER, SYSTEM, Postgres, binaries, server_user

ROOT = Path(__file__).resolve().parents[3]
WEB_PORT = 8000
LOGICAL_CPUS = 8
"""Ray's CPUs are tickets, not cores: each actor takes a tenth."""
OBJECT_STORE_BYTES = 200 << 20


@dataclass
class Stack:
    """Parts in the order of their start; a part is left out if the environment names a replacement."""

    var: Path
    outer: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    env: dict[str, str] = field(init=False)
    parts: list[Part] = field(default_factory=list, init=False)
    web_port: int = field(init=False)

    def __post_init__(self) -> None:
        self.var.mkdir(parents=True, exist_ok=True)
        self.web_port = preferred(int(self.outer.get("TILTH_WEB_PORT", WEB_PORT)))
        self.env = self._environment()
        if "DATABASE_URL" not in self.outer:
            self._add_postgres()
        self.parts.append(Once("schema", self._migrate))
        if "TILTH_DATAPLANE_URL" not in self.outer:
            self._add_dataplane()

        self._add_web()

    @property
    def web_url(self) -> str:
        """Where customers go."""
        return f"http://{HOST}:{self.web_port}"

    def write_state(self) -> None:
        """``var/stack.json``, mode 0600: addresses and process ids, for tools and tests."""
        names = ("DATABASE_URL", "DATABASE_URL_OWNER", "DATABASE_URL_SYSTEM", "RAY_ADDRESS", "TILTH_DATAPLANE_URL")
        state = {name: self.env.get(name, "") for name in names}
        state |= {"web_url": self.web_url, "pids": {part.name: part.pid() for part in self.parts}}
        part = self.var / ".stack.json.part"
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(state, file, indent=1)
        part.replace(self.var / "stack.json")

    def manage(self, *arguments: str) -> str:
        """Runs a management command with the stack's environment; returns what it printed."""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(ROOT / "manage.py"), *arguments],
            env=self.env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"manage.py {' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
        return done.stdout

    def _environment(self) -> dict[str, str]:
        keys = make_keys(self.var / "keys")
        defaults = {
            "DJANGO_SETTINGS_MODULE": "tilth.settings.dev",
            "PYTHONUNBUFFERED": "1",
            "TILTH_VAR": str(self.var),
            "TILTH_SECRET_KEY": keys.secret.read_text(),
            "TILTH_SIGNING_KEY": str(keys.signing),
            "TILTH_VERIFY_KEY": str(keys.verify),
            "TILTH_ARTIFACTS": f"file://{self.var / 'artifacts'}",
            "TILTH_PUBLIC_URL": self.web_url,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(keys.ray_token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DISABLE_IMPORT_WARNING": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "TRANSFORMERS_VERBOSITY": "error",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        return {**defaults, **self.outer}

    def _add_postgres(self) -> None:
        user = server_user()
        folder = cluster_folder(self.var, user)
        programs = programs_folder(binaries(), self.var, user)
        server = Postgres(folder, sockets=socket_folder(folder, self.var), programs=programs)
        roles = {"DATABASE_URL": APP, "DATABASE_URL_OWNER": OWNER, "DATABASE_URL_SYSTEM": SYSTEM}
        self.env |= {name: server.url(role) for name, role in roles.items()}
        self.parts.append(Database(server))

    def _add_dataplane(self) -> None:
        dashboard, gcs, port = free_ports(3)
        after: tuple[str, ...] = ()
        if "RAY_ADDRESS" not in self.outer:
            self.env["RAY_ADDRESS"] = f"{HOST}:{gcs}"
            self.parts.append(self._child("ray", self._ray_command(gcs, dashboard), lambda: listening(gcs)))
            after = ("ray",)
        url = f"http://{HOST}:{port}"
        self.env |= {"TILTH_DATAPLANE_URL": url, "TILTH_DATAPLANE_PORT": str(port), "TILTH_DATAPLANE_HOST": HOST}
        command = [sys.executable, "-m", "inference.app"]
        self.parts.append(self._child("dataplane", command, _said(self._log("dataplane"), "data plane ready"), after))

    def _migrate(self) -> None:
        """Brings the schema and the price list up to date, as the owner."""
        self.manage("migrate", "--database", "owner", "--verbosity", "0")
        self.manage("sync_prices")

    def _add_web(self) -> None:
        """Web and worker outlive a restart of PostgreSQL: they answer 503 and wait."""
        web = [sys.executable, "-m", "uvicorn", "tilth.asgi:application", "--host", HOST, "--port", str(self.web_port)]
        quick = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--timeout-graceful-shutdown", "5"]
        self.parts.append(self._child("web", [*web, *quick], _answers(f"{self.web_url}/healthz")))
        worker = [sys.executable, "-W", "ignore", str(ROOT / "manage.py"), "worker"]
        self.parts.append(self._child("worker", worker, lambda: True))

    def _child(self, name: str, command: list[str], ready: Callable[[], bool], after: tuple[str, ...] = ()) -> Child:
        return Child(name, command, self.env, self._log(name), ready, after)

    def _log(self, name: str) -> Path:
        return self.var / "logs" / f"{name}.log"

    def _ray_command(self, gcs: int, dashboard: int) -> list[str]:
        ray = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--include-dashboard=false"]
        ports = ["--node-ip-address", HOST, "--port", str(gcs), "--dashboard-port", str(dashboard)]
        size = ["--num-cpus", str(LOGICAL_CPUS), "--object-store-memory", str(OBJECT_STORE_BYTES)]
        quiet = ["--disable-usage-stats", "--log-style", "record"]
        return [*ray, *ports, *size, *quiet, "--temp-dir", str(ray_folder(self.var))]


def _said(log: Path, words: str) -> Callable[[], bool]:
    """Whether the log, from where it ends now, holds the words."""
    start = log.stat().st_size if log.exists() else 0
    return lambda: log.exists() and words in log.read_text(errors="replace")[start:]


def _answers(url: str) -> Callable[[], bool]:
    def asked() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2) as reply:  # noqa: S310 (our own address)
                return bool(reply.status == 200)
        except OSError:
            return False

    return asked
