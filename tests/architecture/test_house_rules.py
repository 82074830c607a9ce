"""The house's rules that no linter knows: traps of the tree, sizes, docstrings, where the environment is read."""

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ["platform/tilth", "inference", "verticals"]


def python_files() -> list[Path]:
    found = [path for source in SOURCES for path in (ROOT / source).rglob("*.py")]
    return sorted(path for path in found if "migrations" not in path.parts)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_platform_and_verticals_are_no_packages() -> None:
    """An __init__.py in platform/ breaks even ``import uuid``: the standard library owns the name."""
    assert not (ROOT / "platform/__init__.py").exists()
    assert not (ROOT / "verticals/__init__.py").exists()


def test_no_test_shadows_the_standard_library() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []
    assert not (ROOT / "tests/platform").exists()
    assert list((ROOT / "platform").glob("test*")) == []


def test_every_file_begins_with_a_sentence() -> None:
    silent = [path for path in python_files() if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def test_only_the_settings_read_the_environment() -> None:
    readers = {"platform/tilth/settings/env.py", "inference/settings.py"}
    offenders = []
    for path in python_files():
        name = str(path.relative_to(ROOT))
        if name in readers or name.startswith("platform/tilth/local/"):  # the supervisor makes environments
            continue
        text = path.read_text()
        if ("os.environ" in text and "setdefault" not in text) or "os.getenv" in text:
            offenders.append(name)
    assert offenders == []


@pytest.mark.slow
def test_only_actors_and_what_starts_or_asks_them_import_ray() -> None:
    starters = ("inference/app.py", "inference/entry.py")
    importers = []
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "ray" for name in names):
                importers.append(str(path.relative_to(ROOT)))
    assert [p for p in importers if p not in starters and not p.startswith("inference/actors/")] == []


def test_functions_are_of_a_breath() -> None:
    sizes = {
        f"{path.relative_to(ROOT)}:{node.name}": lines(node)
        for path in python_files()
        for node in functions(ast.parse(path.read_text()))
    }
    assert {name: size for name, size in sizes.items() if size > 60} == {}
    assert statistics.median(sizes.values()) <= 9


def test_files_hold_one_concept() -> None:
    sizes = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in python_files()}
    assert {name: size for name, size in sizes.items() if size > 400} == {}
    assert statistics.median(sizes.values()) <= 120


def test_public_functions_have_docstrings_and_return_types() -> None:
    bare = []
    for path in python_files():
        for node in functions(ast.parse(path.read_text())):
            if node.returns is None:
                bare.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert bare == []


@pytest.mark.parametrize("name", ["utils.py", "helpers.py", "manager.py"])
def test_no_drawer_for_everything(name: str) -> None:
    assert [path for path in python_files() if path.name == name] == []


def test_every_migration_can_be_reversed() -> None:
    migrations = (ROOT / "platform/tilth").rglob("migrations/[0-9]*.py")
    assert [str(p) for p in migrations if "RunSQL(" in p.read_text() and "reverse_sql" not in p.read_text()] == []
