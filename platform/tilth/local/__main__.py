"""``python -m tilth.local up|demo|manage|backup|restore|clean``: the whole product on one machine."""

import argparse
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

from rich.console import Console

from tilth.local.backup import backup
from tilth.local.children import NotReady
from tilth.local.kept import kept
from tilth.local.manifest import BackupRefused
from tilth.local.places import BadPlace, forget_aside
from tilth.local.postgres import PostgresFailed
from tilth.local.restore import refuse_half_restored, restore
from tilth.local.screen import Screen
from tilth.local.stack import ROOT, AlreadyRunning, Stack, manage, running
from tilth.local.supervisor import Supervisor
from tilth.local.surroundings import BadSurroundings

FAULTS = (NotReady, PostgresFailed, BadPlace, BadSurroundings, AlreadyRunning, BackupRefused)


def main() -> int:
    """Runs the product, or the demo on it; the exit status is 0 when all went well."""
    asked = command_line().parse_args()
    var = Path(os.environ.get("TILTH_VAR", ROOT / "var")).absolute()
    console = Console(highlight=False)
    try:
        match asked.command:
            case "clean":
                return clean(var)
            case "manage":
                print(manage(running(var, os.environ), *asked.arguments), end="")
                return 0
            case "backup" | "restore":
                return copy(var, asked, console)
        refuse_half_restored(var)
        return run(Stack(var), asked, console)
    except FAULTS as fault:
        console.print(f"[red]✗[/red] {fault}", markup=True)
        return 1


def command_line() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tilth")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="runs the product until Ctrl-C")
    commands.add_parser("clean", help="removes all that the product has kept")
    manage = commands.add_parser("manage", help="a management command on the product that runs")
    manage.add_argument("arguments", nargs=argparse.REMAINDER)
    for name, what in (("backup", "copies the product, at work or not"), ("restore", "makes it anew from a backup")):
        copied = commands.add_parser(name, help=what)
        copied.add_argument("folder", type=Path, help="the backup: database and artifacts, sealed")
        copied.add_argument("--keys", type=Path, required=True, help="the mirror of the keys; never beside the backup")
    demo = commands.add_parser("demo", help="one datum's whole way, then stays up")
    demo.add_argument("--once", action="store_true", help="end when the demo has ended")
    demo.add_argument("--data", type=Path, help="your own CSV or JSONL file")
    demo.add_argument("--test", type=Path, help="a test file beside it")
    return parser


def run(stack: Stack, asked: argparse.Namespace, console: Console) -> int:
    """Starts, works, and stops everything whatever happens; Ctrl-C and SIGTERM are the usual way to end it."""
    screen = Screen(console)
    supervisor = Supervisor(stack.parts, screen.told, stack.write_state)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: supervisor.ask_to_stop())
    try:
        with screen:
            started = supervisor.start()
        if not started:
            return 130
        if asked.command == "demo" and (status := show(stack, supervisor, asked, console)) is not None:
            return status
        console.print(f"[green]✓[/green] Tilth runs at [link]{stack.web_url}[/link]; Ctrl-C ends it.")
        supervisor.watch()
        return 0
    finally:
        supervisor.stop()


def copy(var: Path, asked: argparse.Namespace, console: Console) -> int:
    """Backup or restore."""
    var.mkdir(parents=True, exist_ok=True)
    product, folder, keys = kept(var, os.environ), asked.folder.absolute(), asked.keys.absolute()
    try:
        if asked.command == "backup":
            made = backup(product, folder, keys, console.print)
        else:
            made = restore(product, var, folder, keys, console.print)
    except OSError as fault:
        raise BackupRefused(f"{fault}; nothing of it counts as a {asked.command}") from fault
    console.print(f"[green]✓[/green] {asked.command}: {made.bytes:,} bytes as of {made.made_at}")
    return 0


def show(stack: Stack, supervisor: Supervisor, asked: argparse.Namespace, console: Console) -> int | None:
    """The demo, in a thread beside the watching; the exit status if all is to end now."""
    from tilth.local.demo import DemoFailed, demo

    faults: list[Exception] = []

    def work() -> None:
        try:
            demo(stack, console, data=asked.data, test=asked.test)
        except Exception as fault:
            faults.append(fault)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    supervisor.watch(until=lambda: not thread.is_alive())
    if supervisor.stopping:
        return 130
    if faults and not isinstance(faults[0], DemoFailed):
        raise faults[0]
    if faults:
        console.print(f"[red]✗[/red] {faults[0]}")
        return 1
    return 0 if asked.once else None


def clean(var: Path) -> int:
    """Removes the folder, and what had to lie beside it."""
    if var.exists():
        Stack(var)  # refuses while it runs, and ends what a killed supervisor has left
        forget_aside(var)
        shutil.rmtree(var)
    return 0


if __name__ == "__main__":
    sys.exit(main())
