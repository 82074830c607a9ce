"""``python -m tilth.local up|demo``: the whole product on one machine."""

import argparse
import os
import signal
import sys
from pathlib import Path

from rich.console import Console

from tilth.local.children import NotReady
from tilth.local.postgres import PostgresFailed
from tilth.local.stack import ROOT, Stack
from tilth.local.supervisor import Supervisor


def main() -> int:
    """Runs the product, or the demo on it; the exit status is 0 when all went well."""
    parser = argparse.ArgumentParser(prog="tilth")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="runs the product until Ctrl-C")
    demo = commands.add_parser("demo", help="one datum's whole way, then stays up")
    demo.add_argument("--once", action="store_true", help="end when the demo has ended")
    demo.add_argument("--data", type=Path, help="your own CSV or JSONL file")
    demo.add_argument("--test", type=Path, help="a test file beside it")
    asked = parser.parse_args()
    console = Console()
    stack = Stack(Path(os.environ.get("TILTH_VAR", ROOT / "var")).absolute())
    supervisor = Supervisor(stack.parts, lambda told: console.print(f"[dim]{told}[/dim]"))
    try:
        return run(stack, supervisor, asked, console)
    except (NotReady, PostgresFailed, RuntimeError) as fault:
        console.print(f"[red]{fault}[/red]", markup=True, highlight=False)
        return 1
    except KeyboardInterrupt:
        return 130


def run(stack: Stack, supervisor: Supervisor, asked: argparse.Namespace, console: Console) -> int:
    """Starts, works, and stops everything whatever happens."""
    try:
        start(stack, supervisor)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: supervisor.ask_to_stop())
        if asked.command == "demo":
            from tilth.local.demo import demo

            demo(stack, console, data=asked.data, test=asked.test)
            if asked.once:
                return 0
        console.print(f"Tilth runs at [link]{stack.web_url}[/link]; Ctrl-C ends it.")
        supervisor.watch()
        return 0
    finally:
        supervisor.stop()


def start(stack: Stack, supervisor: Supervisor) -> None:
    """All parts, with the schema migrated and the price list filled in before the web answers."""
    supervisor.start()
    stack.write_state()


if __name__ == "__main__":
    sys.exit(main())
