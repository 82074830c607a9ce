"""A product that is backed up under load and restored elsewhere: the same digests answer, and every sum holds."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from openai import OpenAI

from tests.campaign import sums
from tests.campaign.customers import LEARN_S, Book, Customers
from tests.product import COMMAND, eventually, running_product

pytestmark = [pytest.mark.stack, pytest.mark.slow]

RUNNING = "SELECT count(*) FROM training_job WHERE state = 'running'"
CELL = b"the depot says nothing"
"""Part of the customers' rows."""
UNFINISHED = "SELECT id FROM training_job WHERE state NOT IN ('succeeded', 'failed', 'cancelled')"


@pytest.fixture(scope="module")
def customers(stack: Any) -> Iterator[Customers]:
    """Two, at work."""
    made = Customers(stack, 2)
    yield made
    made.leave()


def tilth(env: dict[str, str], *arguments: str) -> str:
    return subprocess.run([*COMMAND, *arguments], env=env, check=True, stdout=subprocess.PIPE, text=True).stdout


def counted(url: str, query: Any) -> list[Any]:
    with psycopg.connect(url) as db:
        return db.execute(query).fetchall()


def test_a_product_restored_from_a_backup_under_load_answers_with_the_same_digests_and_every_sum_holds(
    stack: Any, customers: Customers, tmp_path: Path
) -> None:
    folder, keys = str(tmp_path / "backup"), str(tmp_path / "mirror")
    eventually(lambda: counted(stack.sums_url(), RUNNING)[0][0], LEARN_S)
    answered, files = dict(customers.book.answered), dict(customers.book.files)
    print(tilth(stack.env, "backup", folder, "--keys", keys))
    assert len(customers.book.answered) > len(answered), "customers went on while it was made"
    customers.leave()
    assert customers.book.faults == []
    kept = [path for name in ("artifacts", "logs", "scratch") for path in (stack.var / name).rglob("*")]
    assert [path for path in kept if path.is_file() and CELL in path.read_bytes()] == [], "no row lies in the clear"

    def restore(var: Path) -> None:
        print(tilth(stack.env | {"TILTH_VAR": str(var)}, "restore", folder, "--keys", keys))

    with running_product(restore) as restored:
        under_way = counted(restored.sums_url(), UNFINISHED)
        for customer in customers.all:
            client = OpenAI(base_url=f"{restored.url}/v1", api_key=customer.key, max_retries=2)
            body = {"model": customer.model, "inputs": [{"text": "where is my parcel"}]}
            reply: Any = client.post("/predictions", body=body, cast_to=object)
            assert reply["digest"] == customer.digest
        eventually(lambda: counted(restored.sums_url(), UNFINISHED) == [], LEARN_S)
        assert sums.faults(restored, Book()) == []
        ended = dict(counted(restored.sums_url(), "SELECT id, state FROM training_job"))
        assert [ended[job] for (job,) in under_way] == ["succeeded"] * len(under_way)
        events = dict(counted(restored.sums_url(), "SELECT event_id, quantity FROM usage_usageevent"))
        assert {event: events.get(event) for event in answered} == answered, "nothing acknowledged before is missing"
        stored = dict(counted(restored.sums_url(), "SELECT replace(id::text, '-', ''), sha256 FROM datasets_file"))
        assert {file: stored.get(file) for file in files} == files
