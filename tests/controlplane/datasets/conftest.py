"""Files made in place, as the thin app would have stored them, and a face to check them against."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
from tilth.contract.vertical import FieldKind, Schema, SchemaField

from tests.web import Web, start

TEXT = SchemaField(role="text", kind=FieldKind.TEXT, title="Message", aliases=("message", "utterance"))
LABEL = SchemaField(role="label", kind=FieldKind.LABEL, title="Intent", aliases=("intent", "category"))
SCHEMA = Schema(fields=(TEXT, LABEL), out_of_scope_labels=("oos",))
PAID = SchemaField(role="outcome", kind=FieldKind.LABEL, title="Outcome", aliases=("default", "paid"))
FEATURES = SchemaField(role="features", kind=FieldKind.COLUMNS, title="Features")
LENDING = Schema(fields=(PAID, FEATURES))


def csv_of(rows: Sequence[tuple[str, str]], header: str = "text,label") -> bytes:
    """Rows without quotes."""
    return "\n".join([header, *(f"{text},{label}" for text, label in rows), ""]).encode()


def rows_of(count: int, labels: Sequence[str] = ("red", "green")) -> list[tuple[str, str]]:
    """Different rows, labels in turn."""
    return [(f"message number {number}", labels[number % len(labels)]) for number in range(count)]


@pytest.fixture
def frozen(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Freezes contents in this process; the report has the rows, too."""
    import duckdb
    from tilth.datasets.freeze import Wish, freeze
    from tilth.datasets.intake import Source

    def make(train: bytes, *, validation: bytes = b"", test: bytes = b"", **wish: Any) -> dict[str, Any]:
        sources = []
        for split, content in ((None, train), ("validation", validation), ("test", test)):
            if content:
                path = tmp_path / f"{split}.raw"
                path.write_bytes(content)
                param = f"{split or 'training'}_file"
                sources.append(Source(path, f"{split or 'train'}.csv", split, param))
        wish = {"schema": SCHEMA, "columns": None, "seed": 0, "accept_bad_rows": False, **wish}
        out = tmp_path / "rows.parquet"
        report = freeze(sources, Wish(**wish), tmp_path, out)
        with duckdb.connect() as memory:
            cursor = memory.execute("SELECT * FROM read_parquet(?)", [str(out)])
            names = [column[0] for column in cursor.description or []]
            report["all"] = [dict(zip(names, values, strict=True)) for values in cursor.fetchall()]
        return report

    return make


@pytest.fixture
def stored_file(artifacts: Path) -> Callable[..., Any]:
    """An uploaded file of an organisation, not checked yet."""
    from tilth.core.ids import uuid7
    from tilth.core.storage import put_stream
    from tilth.datasets.services import file_create, file_path

    def make(tenant: Any, content: bytes, filename: str = "rows.csv", **facts: Any) -> Any:
        id_ = uuid7()
        stored = put_stream(file_path(tenant.id, id_), [content])
        facts = {"purpose": "fine-tune", **facts}
        return file_create(
            tenant=tenant.id, by=tenant.principal, file=id_, filename=filename, stored=stored, **facts
        )  # fmt: skip

    return make


def jsonl(*objects: Any) -> bytes:
    """JSON Lines."""
    return "".join(json.dumps(each) + "\n" for each in objects).encode()


@pytest.fixture(scope="module")
def web(database: Any) -> Iterator[Web]:
    """A web process for the tests of a module."""
    running = start()
    yield running
    running.process.kill()
    running.process.wait(10)


@pytest.fixture
def sdk(web: Web, tenant: Any) -> Iterator[openai.OpenAI]:
    """The unmodified SDK with the tenant's key, speaking to it."""
    with web.sdk(tenant) as client:
        yield client


@pytest.fixture
def lending(monkeypatch: pytest.MonkeyPatch) -> Schema:
    """The schema of an installed vertical ``lending``, which learns from every column beside the label."""
    from tilth.catalog import selectors
    from tilth.contract import registry
    from tilth.contract.vertical import Metric, Vertical
    from tilth.datasets import services
    from tilth.usage import prices

    support_chat = registry.verticals()["support_chat"]
    face = Vertical(
        name="lending", title="Lending", description="For tests.", schema=LENDING, task="tests.none:Task",
        metrics=(Metric(name="ks", title="KS"),), base_models=support_chat.base_models,
    )  # fmt: skip
    for module in (registry, selectors, services, prices):
        monkeypatch.setattr(module, "verticals", lambda: {"lending": face, "support_chat": support_chat})
    return LENDING
