"""The supervisor with cheap children, each test in a process of its own: restarts, falls, ends, leaves nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPT = '''
import json, os, signal, sys
from pathlib import Path
from tilth.local.children import Child, Errand, NotReady
from tilth.local.supervisor import Supervisor

folder = Path(sys.argv[1])
parts = []


def add(name, code, kind=Child, **options):
    """A child that says `up` when it is of use."""
    command = [sys.executable, "-u", "-c", code]
    answers = lambda child: child.said("up")
    parts.append(kind(name, command, dict(os.environ), folder / f"{name}.log", folder, answers, **options))


def write() -> None:
    (folder / "part").write_text(json.dumps({part.name: part.pid() for part in parts}))
    (folder / "part").rename(folder / "pids")


exec(sys.argv[2])
supervisor = Supervisor(parts, lambda name, what, more: print(name, what, flush=True), write)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: supervisor.ask_to_stop())
try:
    if supervisor.start():
        print("all up", flush=True)
        supervisor.watch()
except NotReady as fault:
    print("not ready:", fault, flush=True)
    sys.exit(1)
finally:
    supervisor.stop()
'''
SLEEPER = "import time; print('up'); time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(600)"
WITH_DAEMON = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, '-c', {STUBBORN!r}], start_new_session=True, stdout=subprocess.DEVNULL)
print('up'); time.sleep(600)
"""


class Supervised:
    """A supervisor at work on children of a test's own making."""

    def __init__(self, folder: Path, plan: str) -> None:
        self.folder = folder
        self.mark = f"TILTH_TEST_MARK={folder}"
        name, _, value = self.mark.partition("=")
        self.output = (folder / "output").open("w+")
        command = [sys.executable, "-c", SCRIPT, str(folder), plan]
        self.process = subprocess.Popen(command, env=os.environ | {name: value}, stdout=self.output)

    def pids(self) -> dict[str, Any]:
        path = self.folder / "pids"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def said(self) -> str:
        return (self.folder / "output").read_text()

    def left(self) -> list[int]:
        """Living processes that carry the mark, wherever they hang in the tree."""
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self.mark.encode() in environ.read_bytes().split(b"\0"):
                    found.append(int(environ.parent.name))
            except OSError:
                continue
        return found


def eventually(holds: Callable[[], object], within_s: float = 20.0) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[[str], Supervised]]:
    started: list[Supervised] = []

    def start(plan: str) -> Supervised:
        started.append(Supervised(tmp_path, plan))
        return started[-1]

    yield start
    for one in started:
        for pid in one.left():
            os.kill(pid, signal.SIGKILL)
        one.process.wait()
        one.output.close()


@pytest.mark.slow
def test_a_killed_child_is_started_again_and_what_cannot_outlive_it_too(supervise: Callable[[str], Supervised]) -> None:
    plan = f"""
add("ray", {SLEEPER!r})
add("dataplane", {SLEEPER!r}, needs=("ray",), falls_with=("ray",))
add("web", {SLEEPER!r})
"""
    one = supervise(plan)
    eventually(lambda: "all up" in one.said())
    before = one.pids()
    os.kill(before["ray"], signal.SIGKILL)
    eventually(lambda: one.said().count("ray ready") == 2 and one.said().count("dataplane ready") == 2)
    eventually(lambda: all(one.pids()[name] != before[name] for name in ("ray", "dataplane")))
    assert one.pids()["web"] == before["web"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything_with_status_0(supervise: Callable[[str], Supervised], number: int) -> None:
    one = supervise(f'add("one", {SLEEPER!r}); add("two", {WITH_DAEMON!r})')
    eventually(lambda: "all up" in one.said())
    assert len(one.left()) == 4
    one.process.send_signal(number)
    assert one.process.wait(30) == 0
    assert one.left() == []


@pytest.mark.slow
def test_daemons_of_a_crashed_child_are_ended_before_it_starts_again(supervise: Callable[[str], Supervised]) -> None:
    one = supervise(f'add("ray", {WITH_DAEMON!r})')
    eventually(lambda: "all up" in one.said())
    before = set(one.left()) - {one.process.pid}
    os.kill(one.pids()["ray"], signal.SIGKILL)
    eventually(lambda: one.said().count("ray ready") == 2)
    assert len(before) == 2
    assert before & set(one.left()) == set()


def test_a_killed_supervisor_takes_its_children_with_it(supervise: Callable[[str], Supervised]) -> None:
    one = supervise(f'add("one", {SLEEPER!r}); add("two", {SLEEPER!r})')
    eventually(lambda: "all up" in one.said())
    assert len(one.left()) > 0
    one.process.kill()
    eventually(lambda: one.left() == [])


@pytest.mark.slow
def test_what_a_killed_supervisor_left_is_ended_by_the_next(supervise: Callable[[str], Supervised]) -> None:
    from tilth.local.orphans import end_marked

    one = supervise(f'add("one", {WITH_DAEMON!r})')
    eventually(lambda: "all up" in one.said())
    one.process.kill()
    one.process.wait()
    assert len(one.left()) > 0
    end_marked(one.mark)
    assert one.left() == []


@pytest.mark.slow
def test_a_child_that_keeps_dying_is_started_less_and_less_often(supervise: Callable[[str], Supervised]) -> None:
    one = supervise('add("bad", "import time; print(\'up\'); time.sleep(0.3)")')
    eventually(lambda: one.said().count("bad launched") == 3)
    times = time.monotonic()
    eventually(lambda: one.said().count("bad launched") == 4)
    assert time.monotonic() - times > 0.7


def test_an_errand_that_fails_ends_the_start_with_its_words(supervise: Callable[[str], Supervised]) -> None:
    plan = """
add("schema", "raise SystemExit('no such table')", kind=Errand)
add("web", "print('up')", needs=("schema",))
"""
    one = supervise(plan)
    assert one.process.wait(20) == 1
    assert "no such table" in one.said()
    assert "web launched" not in one.said()


def test_it_can_be_told_to_stop_while_it_is_starting(supervise: Callable[[str], Supervised]) -> None:
    one = supervise('add("slow", "import time; time.sleep(600)")')
    eventually(lambda: "slow launched" in one.said())
    one.process.terminate()
    assert one.process.wait(20) == 0
    assert one.left() == []
