"""Every installed vertical holds what the product relies on."""

import importlib
import shutil
from pathlib import Path

import pytest
from tilth.contract.registry import verticals

from inference.engine.conformance import NotConforming, check

pytestmark = pytest.mark.slow

SUPPORT_CHAT = Path(__file__).resolve().parents[2] / "verticals" / "support_chat"


@pytest.mark.parametrize("name", verticals())
def test_the_vertical_conforms(name: str) -> None:
    module = importlib.import_module(f"verticals.{name}")
    check(verticals()[name], Path(str(module.__file__)).parent)


def broken(tmp_path: Path, file: str, content: str) -> Path:
    folder = tmp_path / "plugin"
    shutil.copytree(SUPPORT_CHAT, folder)
    (folder / file).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("file", "content", "rule"),
    [
        ("sample.jsonl", '{"text": "a", "intent": "b"}\n', "has 1 rows"),
        ("sample.jsonl", '{"words": "a", "intent": "b"}\n' * 100, "no column for text"),
        ("sample.jsonl", '{"text": "always the same", "intent": "one"}\n' * 100, "only the label 'one'"),
        ("README.md", "# Nothing\n", "is the model card"),
        ("__init__.py", "\n" * 61, "has 61 lines"),
    ],
)
def test_a_broken_plugin_is_told_what_is_wrong(tmp_path: Path, file: str, content: str, rule: str) -> None:
    with pytest.raises(NotConforming, match=rule):
        check(verticals()["support_chat"], broken(tmp_path, file, content))
