"""DuckDB inside the child: one thread, a part of its memory, nothing read from outside, its configuration locked."""

from pathlib import Path

import duckdb

MEMORY_MIB = 768


def confined(*, folder: Path | None = None, file: Path | None = None) -> duckdb.DuckDBPyConnection:
    """An empty database that reaches only ``folder``, where it spills too, and ``file``."""
    spill = str(folder or "")
    made = duckdb.connect(config={"threads": "1", "memory_limit": f"{MEMORY_MIB}MiB", "temp_directory": spill})
    if folder:
        made.execute(f"SET allowed_directories = [{_quoted(folder)}]")
    if file:
        made.execute(f"SET allowed_paths = [{_quoted(file)}]")
    made.execute("SET enable_external_access = false")
    made.execute("SET lock_configuration = true")
    return made


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
