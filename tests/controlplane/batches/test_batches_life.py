"""A batch's whole way with the unmodified openai SDK: made, read, answered in chunks, billed, its files downloaded."""

import io
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import openai
import pytest

from tests.controlplane.batches.rig import MODEL, Rig, jsonl, lines_of, request_line

Sdk = Callable[[Any], openai.OpenAI]


def uploaded(client: openai.OpenAI, content: bytes, name: str = "batch.jsonl") -> str:
    return client.files.create(file=(name, io.BytesIO(content)), purpose="batch").id


def asked(client: openai.OpenAI, file: str, endpoint: Any = "/v1/predictions", **more: Any) -> Any:
    return client.batches.create(input_file_id=file, endpoint=endpoint, completion_window="24h", **more)


def worked(rig: Rig, tenant: Any, batch: str) -> None:
    id_ = UUID(batch.removeprefix("batch-"))
    rig.reader.read(tenant.id, id_)
    rig.finish(tenant, id_)


@pytest.mark.slow
def test_requests_are_answered_in_their_order_billed_once_and_downloaded(rig: Rig, served: Any, sdk: Sdk) -> None:
    client = sdk(served)
    made = asked(client, uploaded(client, lines_of(600)), metadata={"run": "night"})
    assert (made.status, made.endpoint, made.metadata) == ("validating", "/v1/predictions", {"run": "night"})
    assert made.expires_at - made.created_at == 24 * 3600
    worked(rig, served, made.id)

    done = client.batches.retrieve(made.id)
    assert (done.status, done.model, done.error_file_id) == ("completed", MODEL, None)
    assert done.request_counts is not None
    assert done.request_counts.model_dump() == {"completed": 600, "failed": 0, "total": 600}
    assert done.usage is not None
    assert done.usage.input_tokens == 4200
    assert done.output_file_id is not None
    lines = [json.loads(line) for line in client.files.content(done.output_file_id).text.splitlines()]
    assert [line["custom_id"] for line in lines] == [f"request-{number}" for number in range(600)]
    first = lines[0]
    assert (first["error"], first["response"]["status_code"]) == (None, 200)
    assert first["response"]["body"]["data"][0]["output"] == "yes"
    assert first["response"]["body"]["usage"] == {"rows": 1, "tokens": 7}
    assert len({line["id"] for line in lines}) == 600
    assert client.files.retrieve(done.output_file_id).purpose == "batch_output"

    hex_ = made.id.removeprefix("batch-")
    assert rig.events(served) == [("batch", f"{hex_}:{n}", tokens) for n, tokens in enumerate([1792, 1792, 616])]


@pytest.mark.slow
def test_the_invoice_has_the_tokens_of_a_batch_and_nothing_stays_held(rig: Rig, served: Any) -> None:
    from tilth.billing.selectors import invoice_preview
    from tilth.core.clock import now
    from tilth.usage.fold import fold_once
    from tilth.usage.selectors import budget_get

    rig.done(served, lines_of(1000))
    fold_once()
    invoice = invoice_preview(tenant=served.id, month=now().date().replace(day=1))
    assert [(line.unit, line.quantity) for line in invoice.lines] == [("prediction.tokens", 7000)]
    budget = budget_get(tenant=served.id)
    assert (budget.spent_micro_usd, budget.held_micro_usd) == (700, 0)


@pytest.mark.slow
def test_texts_become_vectors_of_a_base_model_alone(rig: Rig, tenant: Any, sdk: Sdk) -> None:
    client = sdk(tenant)
    bodies = [{"model": "minilm-l6", "input": "a text"}, {"model": "minilm-l6", "input": ["two", "texts"]}]
    bodies.append({"model": "minilm-l6", "input": "packed", "encoding_format": "base64"})
    content = jsonl(*(request_line(n, url="/v1/embeddings", body=body) for n, body in enumerate(bodies)))
    made = asked(client, uploaded(client, content), "/v1/embeddings")
    worked(rig, tenant, made.id)
    done = client.batches.retrieve(made.id)
    assert done.output_file_id is not None
    found = [
        json.loads(line)["response"]["body"] for line in client.files.content(done.output_file_id).text.splitlines()
    ]
    assert found[0]["data"] == [{"object": "embedding", "index": 0, "embedding": [6.0, 0.5, -1.0]}]
    assert [each["embedding"][0] for each in found[1]["data"]] == [3.0, 5.0]
    assert found[1]["usage"] == {"prompt_tokens": 14, "total_tokens": 14}
    assert isinstance(found[2]["data"][0]["embedding"], str)
    assert [quantity for _, _, quantity in rig.events(tenant)] == [28]


@pytest.mark.slow
def test_a_table_of_plain_rows_is_scored_row_by_row_and_paid_by_the_row(rig: Rig, lender: Any, sdk: Sdk) -> None:
    client = sdk(lender)
    table = b"amount,branch,note\n1200,north,x\nplenty,south,y\n,north,z\n700,west,w\n"
    file = uploaded(client, table, "applications.csv")
    made = asked(client, file, extra_body={"model": "ft:credit"})
    worked(rig, lender, made.id)
    done: Any = client.batches.retrieve(made.id)
    assert (done.status, done.rows, done.answered_rows) == ("completed", True, 3)
    lines = [json.loads(line) for line in client.files.content(done.output_file_id).text.splitlines()]
    assert [(line["line"], line["prediction"]["output"]) for line in lines] == [(2, "yes"), (4, "yes"), (5, "yes")]
    (wrong,) = [json.loads(line) for line in client.files.content(done.error_file_id).text.splitlines()]
    assert (wrong["line"], wrong["prediction"], wrong["error"]["code"]) == (3, None, "not_a_number")
    assert 'column "amount": this is no finite number' in wrong["error"]["message"]
    assert rig.plane.answers.answered[0] == {"features": {"amount": "1200", "branch": "north"}}
    assert [quantity for _, _, quantity in rig.events(lender)] == [3]


def test_batches_are_listed_newest_first_in_pages(rig: Rig, served: Any, sdk: Sdk) -> None:
    client = sdk(served)
    file = uploaded(client, lines_of(1))
    made = [asked(client, file).id for _ in range(5)]
    assert [batch.id for batch in client.batches.list(limit=2)] == made[::-1]
    page = client.batches.list(limit=2)
    assert (page.has_more, [batch.id for batch in page.data]) == (True, made[:2:-1])


@pytest.mark.slow
def test_a_cancelled_batch_delivers_what_is_answered_and_bills_no_more(rig: Rig, served: Any, sdk: Sdk) -> None:
    client = sdk(served)
    made = asked(client, uploaded(client, lines_of(600)))
    id_ = UUID(made.id.removeprefix("batch-"))
    rig.reader.read(served.id, id_)
    rig.chunk(served, id_)
    stopping = client.batches.cancel(made.id)
    assert (stopping.status, stopping.cancelled_at) == ("cancelling", None)
    assert client.batches.cancel(made.id).status == "cancelling", "twice changes nothing"
    rig.finish(served, id_)
    done = client.batches.retrieve(made.id)
    assert done.status == "cancelled"
    assert done.cancelled_at is not None
    row = rig.batch(served, id_)
    assert len(rig.output(served, row)) == 256
    left = rig.errors(served, row)
    assert [line["custom_id"] for line in left] == [f"request-{number}" for number in range(256, 600)]
    assert {line["error"]["code"] for line in left} == {"batch_cancelled"}
    assert len(rig.events(served)) == 1
    with pytest.raises(openai.BadRequestError, match="completed and cannot be cancelled"):
        client.batches.cancel(_completed(rig, served))


@pytest.mark.slow
def test_a_cancellation_is_heard_between_two_calls_of_one_chunk(rig: Rig, served: Any) -> None:
    from tilth.batches.services import batch_cancel

    batch = rig.begun(served, lines_of(256))

    def cancel_at_the_third() -> None:
        if len(rig.plane.answers.asked) == 2:
            batch_cancel(tenant=served.id, by=served.principal, batch=batch)

    rig.plane.answers.meets = cancel_at_the_third
    rig.runner.work(served.id, batch)
    assert len(rig.plane.answers.asked) == 3, "the call under way was the last"
    rig.runner.work(served.id, batch)
    row = rig.batch(served, batch)
    assert (row.state, row.output_file_id, len(rig.errors(served, row))) == ("cancelled", None, 256)
    assert rig.events(served) == []


def test_a_batch_that_is_cancelled_before_it_is_read_ends_at_once(rig: Rig, served: Any, sdk: Sdk) -> None:
    client = sdk(served)
    made = asked(client, uploaded(client, lines_of(3)))
    assert client.batches.cancel(made.id).status == "cancelled"
    worked(rig, served, made.id)
    assert (client.batches.retrieve(made.id).status, rig.plane.answers.asked) == ("cancelled", [])


@pytest.mark.slow
def test_result_files_expire_as_asked(rig: Rig, served: Any, sdk: Sdk) -> None:
    client = sdk(served)
    life: Any = {"anchor": "created_at", "seconds": 3600}
    made = asked(client, uploaded(client, lines_of(1)), output_expires_after=life)
    worked(rig, served, made.id)
    done = client.batches.retrieve(made.id)
    assert done.output_file_id is not None
    file: Any = client.files.retrieve(done.output_file_id)
    assert file.expires_at - file.created_at in (3599, 3600)
    with pytest.raises(openai.BadRequestError, match="3600 to 2592000 seconds"):
        asked(client, uploaded(client, lines_of(1)), output_expires_after={**life, "seconds": 5})


@pytest.mark.slow
def test_the_input_file_may_be_deleted_while_its_batch_is_worked_on(rig: Rig, served: Any) -> None:
    from tilth.datasets.services import file_delete

    file = rig.file(served, lines_of(3))
    batch = rig.begun(served, input_file=file)
    file_delete(tenant=served.id, by=served.principal, file=file)
    rig.finish(served, batch)
    assert rig.batch(served, batch).completed == 3


@pytest.mark.slow
def test_what_an_ended_batch_left_in_storage_is_removed(rig: Rig, served: Any) -> None:
    from tilth.batches import leftovers, places
    from tilth.core import storage

    row = rig.done(served, lines_of(3))
    (told,) = rig.db.execute(
        "SELECT args FROM procrastinate_jobs WHERE task_name = 'batches.remove_objects'"
    ).fetchall()
    assert told == ({"tenant": served.id.hex, "batch": row.id.hex},)
    assert list(storage.walk(places.prefix(served.id, row.id))) != []
    for _ in range(2):
        leftovers.remove_objects(tenant=served.id, batch=row.id)
    assert list(storage.walk(places.prefix(served.id, row.id))) == []
    assert len(rig.output(served, row)) == 3


def _completed(rig: Rig, tenant: Any) -> str:
    return f"batch-{rig.done(tenant, lines_of(1)).id.hex}"
