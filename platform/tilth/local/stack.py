"""The product on one machine: which parts there are, and in which folder, on which ports."""

import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from tilth.local.children import Child, Database, Errand, NotReady, Part
from tilth.local.keys import make_keys, write_secret
from tilth.local.orphans import end_marked
from tilth.local.places import cluster_folder, programs_folder, ray_folder, socket_folder
from tilth.local.ports import HOST, free_ports, listener
from tilth.local.postgres import APP, OWNER, SYSTEM, Postgres, binaries, server_user
from tilth.local.ray_head import RayHead
from tilth.local.surroundings import DATABASES, control_plane, data_plane, environment

ROOT = Path(__file__).resolve().parents[3]
WEB_PORT = 8000
RAY_GRACE_S = 1.0
"""Ray's own way down takes 15 s; the head keeps nothing, and its daemons are ended with it."""
MARK = "TILTH_STACK"
"""Every child carries it, with the folder it works for."""


class AlreadyRunning(RuntimeError):
    """Another supervisor works on the same folder."""


@dataclass
class Stack:
    """Parts in the order of their start; a part is left out if the environment names a replacement."""

    var: Path
    outer: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    env: dict[str, str] = field(init=False)
    parts: list[Part] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.var = self.var.absolute()
        self.var.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.var)
        end_marked(f"{MARK}={self.var}")
        self.env = environment(self.outer, self.var, make_keys(self.var / "keys"), self.web_url)
        self.env[MARK] = str(self.var)
        if "TILTH_DATAPLANE_URL" not in self.outer or "TILTH_DATAPLANE_PORT" in self.outer:
            self._add_data_plane()
        if "DATABASE_URL" not in self.outer:
            self._add_postgres()
        self._add_control_plane()

    @property
    def web_url(self) -> str:
        """Where customers go."""
        return f"http://{HOST}:{self.web_port}"

    @property
    def web_port(self) -> int:
        """As asked for, or as the last time, or 8000; another if that is taken."""
        return int(self._listener.getsockname()[1])

    @cached_property
    def _listener(self) -> socket.socket:
        """Held here: no other stack takes the port, and while web restarts its callers wait."""
        asked = self.outer.get("TILTH_WEB_PORT") or _read_state(self.var).get("web_port") or WEB_PORT
        return listener(int(asked))

    def write_state(self) -> None:
        """``var/stack.json``, mode 0600: addresses and process ids, for tools and tests."""
        names = (*DATABASES, "RAY_ADDRESS", "TILTH_DATAPLANE_URL", "TILTH_ARTIFACTS")
        state = {name: self.env.get(name, "") for name in names} | {"web_url": self.web_url, "web_port": self.web_port}
        state["pids"] = {part.name: part.pid() for part in self.parts}
        write_secret(self.var / "stack.json", json.dumps(state, indent=1).encode())

    def manage(self, *arguments: str) -> str:
        """Runs a management command with the stack's environment; returns what it printed."""
        return manage(self.env, *arguments)

    def _add_data_plane(self) -> None:
        """Ours, and reached at TILTH_DATAPLANE_URL if something lies between (a proxy) and the port is said, too."""
        bound: tuple[str, ...] = ()
        if "RAY_ADDRESS" not in self.outer:
            bound = (self._add_ray().name,)
        port = self.outer.get("TILTH_DATAPLANE_PORT") or free_ports(1)[0]
        url = self.outer.get("TILTH_DATAPLANE_URL") or f"http://{HOST}:{port}"
        self.env |= {"TILTH_DATAPLANE_URL": url, "TILTH_DATAPLANE_PORT": str(port), "TILTH_DATAPLANE_HOST": HOST}
        for name, module, ready in (
            ("hosts", "inference.app", "hosts deployed"),
            ("ingress", "inference.entry", "Uvicorn running"),
        ):
            made = self._child(name, [sys.executable, "-m", module], _said(ready), needs=bound)
            made.env, made.falls_with = data_plane(self.env), bound

    def _add_ray(self) -> Child:
        head = RayHead(ray_folder(self.var))
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.var / "keys" / "ray-token")}
        self.env = {**token, **head.env, **self.env}
        made = self._child("ray", head.command(), lambda _: head.answers())
        made.env, made.grace_s = data_plane(self.env), RAY_GRACE_S
        self.env["RAY_ADDRESS"] = head.address
        return made

    def _add_postgres(self) -> None:
        user = server_user()
        folder = cluster_folder(self.var, user)
        programs = programs_folder(binaries(), self.var, user)
        server = Postgres(folder, sockets=socket_folder(folder, self.var), programs=programs)
        roles = {"DATABASE_URL": APP, "DATABASE_URL_OWNER": OWNER, "DATABASE_URL_SYSTEM": SYSTEM}
        self.env |= {name: server.url(role) for name, role in roles.items()}
        self.parts.append(Database(server))

    def _add_control_plane(self) -> None:
        """Web and worker outlive a restart of PostgreSQL: they answer 503 and wait."""
        python, needs = [sys.executable, "-W", "ignore", "-m"], ("postgres", "schema")
        self._child("schema", [*python, "tilth.local.schema"], needs=("postgres",), kind=Errand)
        web = [*python, "tilth.local.web", str(self._listener.fileno())]
        made = self._child("web", web, _said("Application startup complete"), needs=needs)
        made.inherits = (self._listener.fileno(),)
        self._child("worker", [*python, "django", "worker"], needs=needs)

    def _child(
        self,
        name: str,
        command: list[str],
        answers: Callable[[Child], bool] = lambda _: True,
        needs: tuple[str, ...] = (),
        kind: type[Child] = Child,
    ) -> Child:
        log = self.var / "logs" / f"{name}.log"
        made = kind(name, command, control_plane(self.env), log, ROOT, answers, needs)
        self.parts.append(made)
        return made


def _said(words: str) -> Callable[[Child], bool]:
    return lambda child: child.said(words)


def bring_up_to_date(env: Mapping[str, str]) -> None:
    """The schema of a restored database; raises NotReady with what was said if it failed."""
    _run(env, "-m", "tilth.local.schema")


def manage(env: Mapping[str, str], *arguments: str) -> str:
    """Runs a management command; returns what it printed, raises NotReady with what it said if it failed."""
    return _run(env, "-m", "django", *arguments)


def _run(env: Mapping[str, str], *arguments: str) -> str:
    command = [sys.executable, "-W", "ignore", *arguments]
    done = subprocess.run(command, env=control_plane(env), capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise NotReady(f"{' '.join(arguments[1:])} failed: {done.stderr[-3000:]}")
    return done.stdout


def running(var: Path, outer: Mapping[str, str]) -> dict[str, str]:
    """The environment of the stack that runs on a folder, for management commands from outside."""
    state = _read_state(var)
    if not state:
        raise NotReady(f"nothing runs on {var}; start it with `make up`")
    env = environment(outer, var, make_keys(var / "keys"), state["web_url"])
    return {**env, **{name: state[name] for name in (*DATABASES, "TILTH_DATAPLANE_URL", "TILTH_ARTIFACTS")}}


def _locked(var: Path) -> IO[str]:
    """The lock of a folder, held until we end, however we end."""
    lock = (var / "lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        where = _read_state(var).get("web_url", "")
        raise AlreadyRunning(
            f"Tilth already runs on {var} {where}; end it, or set TILTH_VAR to another folder"
        ) from None
    return lock


def _read_state(var: Path) -> dict[str, Any]:
    """What the last supervisor of the folder wrote."""
    try:
        state: dict[str, Any] = json.loads((var / "stack.json").read_text())
    except (OSError, ValueError):
        return {}
    return state
