"""The whole stack under its supervisor: side by side, killed, ended; who listens where and refuses whom."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.product import running_product

pytestmark = [pytest.mark.stack, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")
LISTENING = "0A"


@pytest.fixture(scope="module")
def other_stack(stack: Any) -> Iterator[Any]:
    """A second one beside the first."""
    with running_product() as product:
        yield product


def status(url: str) -> int:
    """Of a GET; 0 if nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def wait_for(holds: Callable[[], object], within_s: float = 120.0) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)


def listeners(pids: Iterable[int]) -> dict[int, tuple[bool, list[int]]]:
    """Port → (on loopback only, processes that hold it) of every TCP socket on which these processes listen."""
    holders = defaultdict(list)
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                holders[os.readlink(link)].append(pid)
            except OSError:
                continue
    found = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            address, _, port = fields[1].partition(":")
            owners = holders.get(f"socket:[{fields[9]}]")
            if fields[3] == LISTENING and owners:
                found[int(port, 16)] = (address in LOOPBACK, owners)
    return found


@dataclass(frozen=True)
class Listed:
    """A row of SECURITY.md's table: part of a command line, the address, and what a caller without a token hears."""

    process: str
    loopback: bool
    answer: str


def listed() -> list[Listed]:
    """The table below "Listeners"; its columns are listener, process, address, protocol, answer, meaning."""
    text = (ROOT / "SECURITY.md").read_text().partition("## Listeners")[2]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [Listed(row[1], row[2] == "loopback", row[4]) for row in rows[2:]]


STRANGER = """
import http.client, sys, grpc
METHODS = ["/ray.serve.ASGIService/HandleRequest", "/ray.rpc.NodeInfoGcsService/CheckAlive",
           "/ray.rpc.NodeManagerService/GetNodeStats", "/ray.rpc.ObjectManagerService/Pull",
           "/ray.rpc.CoreWorkerService/GetCoreWorkerStats", "/ray.rpc.RayletDriver/ClusterInfo",
           "/ray.rpc.ReporterService/HealthCheck"]

def asked(channel, method):
    try:
        channel.unary_unary(method, bytes, bytes)(b"", timeout=10)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"

def over_http(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/v1/models")
        return str(connection.getresponse().status)
    except (OSError, http.client.HTTPException) as error:
        return ""

for port in map(int, sys.argv[1:]):
    said = over_http(port)
    if not said:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            codes = [asked(channel, method) for method in METHODS]
        said = next((code for code in codes if code != "UNIMPLEMENTED"), "UNIMPLEMENTED")
    print(port, said, flush=True)
"""
"""Without a token, over HTTP and, where that is not spoken, gRPC: the first answer of a service that is there."""


def strangers_answers(env: dict[str, str], ports: list[int]) -> dict[int, str]:
    """Port → the HTTP status or gRPC code that a caller without a token gets."""
    asked = [sys.executable, "-W", "ignore", "-c", STRANGER, *map(str, ports)]
    done = subprocess.run(asked, capture_output=True, text=True, env=env, check=True, timeout=300)
    return {int(port): said for port, said in (line.split() for line in done.stdout.splitlines())}


def test_two_stacks_run_side_by_side(stack: Any, other_stack: Any) -> None:
    assert stack.url != other_stack.url
    assert [status(f"{each.url}/healthz") for each in (stack, other_stack)] == [200, 200]
    first, second = (set(listeners(each.processes())) for each in (stack, other_stack))
    assert first & second == set()


def compared(stack: Any) -> tuple[list[Any], list[Listed]]:
    """(listeners that the table does not know, rows that nobody listens for)."""
    processes, told = stack.processes(), listed()
    unknown, found = [], set()
    open_ports = listeners(processes)
    answers = strangers_answers(stack.env, sorted(open_ports))
    for port, (closed, owners) in sorted(open_ports.items()):
        seen, commands = (closed, answers[port]), [processes[pid] for pid in owners]
        matching = [
            row for row in told if (row.loopback, row.answer) == seen and any(row.process in c for c in commands)
        ]
        found |= set(matching)
        if not matching:
            unknown.append((port, commands[0][:90], "loopback" if closed else "all addresses", answers[port]))
    return unknown, [row for row in told if row not in found]


def test_every_listener_is_in_the_threat_model_and_answers_a_stranger_as_it_says_there(stack: Any) -> None:
    """Both ways: nobody listens that SECURITY.md does not know, and nothing is listed that does not listen.

    Ray's agents begin to listen some seconds after the product is ready, and a trainer's process may just be ending.
    """
    end = time.monotonic() + 120
    while any(found := compared(stack)) and time.monotonic() < end:
        time.sleep(2)
    unknown, absent = found
    assert unknown == [], "\n".join(map(str, unknown))
    assert absent == [], "\n".join(map(str, absent))


def test_ray_refuses_a_client_without_its_token(stack: Any) -> None:
    code = "import sys, ray; ray.init(address=sys.argv[1], logging_level='ERROR')"
    env = stack.env | {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    asked = [sys.executable, "-W", "ignore", "-c", code, stack.state["RAY_ADDRESS"]]
    done = subprocess.run(asked, capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode != 0


def test_the_data_plane_refuses_a_caller_without_a_token(stack: Any) -> None:
    assert status(stack.state["TILTH_DATAPLANE_URL"] + "/health") == 401


def test_the_data_plane_knows_no_password_of_the_database(stack: Any) -> None:
    databases = {"DATABASE_URL", "DATABASE_URL_OWNER", "DATABASE_URL_SYSTEM"}
    secrets = databases | {"TILTH_SECRET_KEY", "TILTH_SIGNING_KEY", "TILTH_KEYSTORE"}
    pids = stack.state["pids"]
    for name in ("ray", "hosts", "ingress"):
        environ = Path(f"/proc/{pids[name]}/environ").read_text().split("\0")
        assert {line.partition("=")[0] for line in environ} & secrets == set()


def test_secrets_below_var_are_readable_by_us_alone(stack: Any) -> None:
    secrets = [*(stack.var / "keys").iterdir(), stack.var / "stack.json", stack.var / "postgres" / "passwords"]
    assert {path.name: path.stat().st_mode & 0o077 for path in secrets} == {path.name: 0 for path in secrets}


def logged(stack: Any) -> dict[Path, bytes]:
    """Every log of every process below var, Ray's own among them."""
    ray = (stack.var / "ray").resolve()
    found = [path for folder in (stack.var / "logs", ray) for path in folder.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in found if path.suffix in (".log", ".out", ".err", ".txt", ".json")}


def test_no_log_of_any_process_holds_a_key_or_a_password(stack: Any) -> None:
    """Asked through Ray, too: what crosses to the data plane are tokens and grants with the keys of objects."""
    key = stack.account()["key"]
    with OpenAI(base_url=f"{stack.url}/v1", api_key=key, max_retries=2) as client:
        assert client.embeddings.create(model="minilm-l6", input="a parcel").data[0].embedding
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model="ft:nobody", input="a parcel")
    passwords = (stack.var / "postgres" / "passwords").read_text().split()
    secrets = [key[15:-6], *(line.partition("=")[2] for line in passwords)]
    secrets += [(stack.var / "keys" / name).read_text() for name in ("secret", "ray-token")]
    assert min(map(len, secrets)) > 15
    shapes = [re.compile(rb"eyJ[\w-]{16,}\.[\w-]{16,}\.[\w-]{16,}"), re.compile(rb"key\W{1,4}[0-9a-f]{64}")]
    logs = logged(stack)
    assert any(path.name.startswith("raylet") for path in logs)
    assert any(b"minilm-l6" in content for content in logs.values()), "hosts have a log"
    shapes += [re.compile(re.escape(secret).encode()) for secret in secrets]
    assert [path.name for path, content in logs.items() if any(shape.search(content) for shape in shapes)] == []


def test_a_second_supervisor_on_the_same_folder_is_refused(stack: Any) -> None:
    command = [sys.executable, "-m", "tilth.local", "up"]
    done = subprocess.run(command, env=stack.env, capture_output=True, text=True)
    assert done.returncode == 1
    assert "already runs" in done.stdout


def test_callers_wait_while_web_restarts(stack: Any) -> None:
    before = stack.state["pids"]["web"]
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{before}").exists())
    with urllib.request.urlopen(f"{stack.url}/healthz", timeout=60) as reply:
        assert reply.status == 200


def test_nothing_is_left_when_it_ends(other_stack: Any) -> None:
    assert len(other_stack.processes()) > 8
    assert other_stack.end(signal.SIGTERM) == 0
    assert other_stack.processes() == {}
