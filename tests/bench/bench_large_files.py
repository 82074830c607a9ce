"""A large table: uploaded in parts by clients of which one is killed, looked at and frozen by the limited child."""

import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import openai
from tilth.contract.vertical import FieldKind, Schema, SchemaField
from tilth.datasets.sandbox import Limits, run_child
from tilth.local.postgres import Postgres

from tests.bench.bench_gateway import environment, prepare
from tests.bench.bench_gateway_soak import web
from tests.part_client import MIB, upload_by_two, write_rows

NAME = "large_files"
SIZE = (64, 2048)
"""MiB: short, and full."""
PART = 64 * MIB
SCHEMA = Schema(
    fields=(
        SchemaField(role="text", kind=FieldKind.TEXT, title="Message"),
        SchemaField(role="label", kind=FieldKind.LABEL, title="Intent"),
    )
)


def run(*, full: bool) -> list[dict[str, str]]:
    """The child under the product's own limits, then the upload."""
    with ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="tilth-b-"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        home.chmod(0o755)
        path = home / "rows.csv"
        rows, digest = write_rows(path, SIZE[full])
        lines = [checked("looked at by the child", path, rows, home, look(path))]
        lines.append(checked("frozen by the child", path, rows, home, frozen(path, home)))
        return [*lines, *uploaded(stack, home, path, digest, PART if full else 4 * MIB)]


def look(path: Path) -> dict[str, Any]:
    """What the child is asked for each upload."""
    return {"work": "inspect", "path": str(path), "schemas": {"bench": SCHEMA.model_dump(mode="json")}}


def frozen(path: Path, home: Path) -> dict[str, Any]:
    """What the child is asked for each version."""
    source = {"path": str(path), "name": path.name, "split": None, "param": "training_file"}
    wish = {"schema": SCHEMA.model_dump(mode="json"), "columns": None, "seed": 0, "accept_bad_rows": False}
    return {"work": "freeze", "sources": [source], "wish": wish, "out": str(home / "freeze" / "rows.parquet")}


def checked(what: str, path: Path, rows: int, home: Path, order: dict[str, Any]) -> dict[str, str]:
    """One run of the child under the product's own limits."""
    (folder := home / order["work"]).mkdir()
    began, used = time.monotonic(), cpu_s()
    with peak_of_child() as peaks:
        found = run_child(order, folder)["rows"]
    seconds, used = time.monotonic() - began, cpu_s() - used
    assert (found if isinstance(found, int) else found["kept"]) == rows
    limits = Limits()
    return line(what, path, seconds) | {
        "CPU s": f"{used:.0f} of {limits.cpu_s:,}",
        "rows/CPU s": f"{rows / used:,.0f}",
        "peak MiB": f"{max(peaks):,.0f} of {limits.memory_bytes // MIB:,}",
    }


@contextmanager
def peak_of_child() -> Iterator[list[float]]:
    """MiB of the one child of this thread, looked at all the time: getrusage would count ourselves before its exec."""
    found, children = [0.0], Path(f"/proc/self/task/{threading.get_native_id()}/children")
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            for pid in children.read_text().split():
                with suppress(OSError, StopIteration):
                    found.append(memory(int(pid)))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield found
    finally:
        ended.set()
        watching.join()


def uploaded(stack: ExitStack, home: Path, path: Path, digest: str, part: int) -> list[dict[str, str]]:
    """Through the product's web process; its memory and what is left on disk."""
    server = Postgres(home / "pg")
    server.folder.mkdir()
    server.start()
    stack.callback(server.stop)
    env = environment(home, server)
    key = prepare(server, env)[0]
    url, pid = stack.enter_context(web(env, home))
    sdk = stack.enter_context(openai.OpenAI(api_key=key, base_url=f"{url}/v1"))
    sdk.uploads.upload_file_chunked(
        file=b"warm", filename="warm", bytes=4, mime_type="text/plain", purpose="user_data"
    )  # fmt: skip
    idle, began = memory(pid), time.monotonic()
    done = upload_by_two(sdk, path, part, half_written(home / "artifacts"))
    seconds = time.monotonic() - began
    grown = memory(pid) - idle
    assert done.file is not None
    assert digest_of(sdk, done.file.id) == digest
    told = line("uploaded in parts, one client killed", path, seconds)
    return [told | {"peak MiB": f"+{grown:.0f} in web (goal ≤ 40)"}]


def half_written(artifacts: Path) -> Callable[[], bool]:
    """Whether a part is on its way."""
    return lambda: next(artifacts.rglob("uploads/**/*.part"), None) is not None


def digest_of(sdk: openai.OpenAI, file: str) -> str:
    """Of the bytes that come back."""
    digest = sha256()
    with sdk.files.with_streaming_response.content(file) as answer:
        for chunk in answer.iter_bytes(MIB):
            digest.update(chunk)
    return digest.hexdigest()


def line(what: str, path: Path, seconds: float) -> dict[str, str]:
    """Size, time and pace."""
    mib = path.stat().st_size / MIB
    return {"what": what, "MiB": f"{mib:,.0f}", "s": f"{seconds:.0f}", "MiB/s": f"{mib / seconds:.1f}"}


def cpu_s() -> float:
    """Of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory(pid: int) -> float:
    """Most MiB resident so far."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024
