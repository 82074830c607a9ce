"""``make bench``: runs the benchmarks beside this file and prints their tables; ratios within one run, never tests."""

import argparse
import importlib.util
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Runs the named benchmark, or the short form of all."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--name", help="one benchmark only")
    parser.add_argument("--full", action="store_true", help="the whole table instead of the short one")
    asked = parser.parse_args()
    modules = [load(path) for path in sorted(HERE.glob("bench_*.py"))]
    chosen = [module for module in modules if asked.name in (None, module.NAME)]
    if not chosen:
        print(f"no benchmark {asked.name!r}; there are: {', '.join(m.NAME for m in modules)}", file=sys.stderr)
        return 2
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(f"{datetime.now(UTC):%Y-%m-%d} · {machine()}")
    for module in chosen:
        started = time.monotonic()
        rows = module.run(full=asked.full)
        console.print(table(f"{module.NAME} ({time.monotonic() - started:.0f} s)", rows))
    return 0


def load(path: Path) -> ModuleType:
    """A benchmark module by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def machine() -> str:
    """Cores, processor's widest vector unit, Python."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    vector = next((name for name in ("avx512_bf16", "avx512f", "avx2") if name in flags), "no AVX2")
    return f"{os.cpu_count()} cores ({platform.machine()}, {vector}), Python {platform.python_version()}"


def table(title: str, rows: list[dict[str, str]]) -> Table:
    """A table whose columns are the rows' keys, in the order they appear."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    made = Table(*columns, title=title, title_justify="left")
    for row in rows:
        made.add_row(*[row.get(column, "") for column in columns])
    return made


if __name__ == "__main__":
    sys.exit(main())
