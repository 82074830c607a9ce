"""The whole product as a newcomer starts it, in a process of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from tests.disks import Disk, small_disk
from tests.network import Network, network
from tests.web import free_port

T = TypeVar("T")
COMMAND = [sys.executable, "-m", "tilth.local"]
READY_S = 240.0
DISKS, DISK = ("artifacts", "postgres"), 4 << 30
"""Folders of ``var`` that lie on a disk of their own, and its size in bytes."""
PLAIN = ("TILTH_", "DATABASE_URL", "RAY_", "DJANGO_")


class Product:
    """``tilth up`` on a folder of its own; ``end`` is Ctrl-C.

    Between its planes lies a network that can be broken; its database and its artifacts lie on disks that can be full.
    """

    def __init__(
        self, folder: Path, cable: Network, disks: Mapping[str, Disk | None], settings: Mapping[str, str]
    ) -> None:
        self.var = folder / "var"
        self.cable, self.disks = cable, disks
        outer = {name: value for name, value in os.environ.items() if not name.startswith(PLAIN)}
        self.env = outer | {
            "TILTH_VAR": str(self.var), "TILTH_LEASE_S": "6", "TILTH_HEARTBEAT_S": "1",
            "TILTH_DATAPLANE_URL": cable.url, "TILTH_DATAPLANE_PORT": str(cable.port),
            **settings,
        }  # fmt: skip
        self.output = (folder / "output").open("w+")
        self.process = self._launched()

    def _launched(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([*COMMAND, "up"], env=self.env, stdout=self.output, stderr=self.output)

    def restart(self) -> None:
        """Starts it again on the same folder, after its supervisor has died."""
        self.process = self._launched()

    def sums_url(self) -> str:
        """Of a superuser who sees every row: for checking sums, never for acting."""
        kept = (self.var / "postgres" / "passwords").read_text().splitlines()
        words = quote(dict(line.split("=", 1) for line in kept)["postgres"])
        return f"postgresql://postgres:{words}@/tilth?{urlsplit(self.state['DATABASE_URL']).query}"

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.var / "stack.json").read_text())
        return found

    @property
    def url(self) -> str:
        return str(self.state["web_url"])

    def said(self) -> str:
        self.output.flush()
        return Path(self.output.name).read_text()

    def manage(self, *arguments: str) -> str:
        done = subprocess.run(
            [*COMMAND, "manage", *arguments], env=self.env, check=True, capture_output=True, text=True
        )  # fmt: skip
        return done.stdout

    def account(self) -> dict[str, str]:
        """A fresh organisation: {email, password, key, organisation, id}."""
        made: dict[str, str] = json.loads(self.manage("seed_demo").splitlines()[-1])
        return made

    def await_up(self) -> None:
        eventually(lambda: "Tilth runs at" in self.said() or self.process.poll() is not None, READY_S)
        assert self.process.poll() is None, self.said()

    def processes(self) -> dict[int, str]:
        """Command lines of the living processes that work for this folder, wherever they hang; not of its supervisor.

        A title, as Ray's processes give themselves one, overwrites command line and environment: open files still tell.
        """
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            if int(folder.name) == self.process.pid:
                continue
            try:
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                marked = f"TILTH_STACK={self.var}".encode() in (folder / "environ").read_bytes().split(b"\0")
                inside = os.readlink(folder / "cwd").startswith(str(self.var))
                if words and (marked or inside or f"{self.var}/" in words or self._open_in(folder)):
                    found[int(folder.name)] = words
            except OSError:
                continue
        return found

    def _open_in(self, folder: Path) -> bool:
        """Whether the process of this folder of /proc holds a file of ours open."""
        return any(os.readlink(link).startswith(f"{self.var}/") for link in (folder / "fd").iterdir())

    def end(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


def eventually(holds: Callable[[], T], within_s: float = 20.0) -> T:
    """What it says as soon as that is true of it."""
    end = time.monotonic() + within_s
    while not (said := holds()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)
    return said


@contextmanager
def running_product(
    prepared: Callable[[Path], object] = lambda var: None, settings: Mapping[str, str] | None = None
) -> Iterator[Product]:
    """Started on a folder of its own and up; ended, and its folder removed, whatever happens.

    ``prepared`` is called with ``var`` before it starts; ``settings`` are its environment's.
    """
    folder = Path(tempfile.mkdtemp(prefix="tilth-s-", dir="/tmp"))
    folder.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        cable = stack.enter_context(network(f"http://127.0.0.1:{free_port()}"))
        disks = {name: stack.enter_context(small_disk(folder / "var" / name, DISK)) for name in DISKS}
        prepared(folder / "var")
        product = Product(folder, cable, disks, settings or {})
        stack.callback(_ended, product)
        product.await_up()
        yield product


def _ended(product: Product) -> None:
    if product.process.poll() is None:
        product.end()
    for pid in product.processes():
        os.kill(pid, signal.SIGKILL)
    product.output.close()
