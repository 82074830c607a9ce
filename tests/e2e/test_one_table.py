"""A table's whole way with the unmodified openai SDK: free columns, job, whole model, rows paid by the row."""

import io
import json
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.e2e.test_one_datum import asked, client_of, finished, used

pytestmark = [pytest.mark.stack, pytest.mark.slow]

SAMPLE = Path(__file__).resolve().parents[2] / "verticals" / "credit_risk" / "sample.jsonl"


def learned(client: OpenAI, **options: Any) -> Any:
    file = client.files.create(file=("applications.jsonl", io.BytesIO(SAMPLE.read_bytes())), purpose="fine-tune")
    assert client.files.wait_for_processing(file.id, poll_interval=0.2).status == "processed"
    extra = {"kinds": {"months": "category"}, "options": options}
    made = client.fine_tuning.jobs.create(model="table-minilm-l6", training_file=file.id, extra_body=extra)
    return finished(client, made.id)


def test_applications_become_a_model_that_scores_rows_by_their_own_column_names(stack: Any) -> None:
    client = client_of(stack)
    job = learned(client, highest_rung="probe")
    assert (job.status, job.error) == ("succeeded", None)
    detail = client.models.retrieve(job.fine_tuned_model).model_dump()
    assert detail["metrics"]["auc"] > 0.65
    board = {line["name"]: line for line in detail["report"]["leaderboard"]}
    assert {"linear", "scorecard", "forest", "boosted", "network", "blend", "probe"} == set(board)

    rows = [json.loads(line) for line in SAMPLE.read_text().splitlines()]
    applications = [{name: cell for name, cell in row.items() if name != "defaulted"} for row in rows[:40]]
    body: dict[str, Any] = {"model": job.fine_tuned_model, "inputs": applications}
    reply: Any = client.post("/predictions", cast_to=object, body=body)
    assert reply["digest"] == detail["digest"]
    assert {each["output"] for each in reply["data"]} <= {"yes", "no"}
    scored = [each["probabilities"]["yes"] for each in reply["data"]]
    bad = [score for score, row in zip(scored, rows, strict=False) if row["defaulted"] == "yes"]
    good = [score for score, row in zip(scored, rows, strict=False) if row["defaulted"] == "no"]
    assert sum(bad) / len(bad) > sum(good) / len(good) + 0.05
    assert used(client, stack)["prediction.rows"] == 40
    assert sum(each["balance_micro_usd"] for each in asked(client, stack, "/api/ledger")["data"]) == 0

    one = {**applications[0], "application": "A-unseen", "housing": "a boat"}
    again: Any = client.post("/predictions", cast_to=object, body={**body, "inputs": [one]})
    assert again["usage"]["rows"] == 1
    with pytest.raises(openai.BadRequestError, match="'amount' holds 'plenty'; it must be a number"):
        client.post("/predictions", cast_to=object, body={**body, "inputs": [{**one, "amount": "plenty"}]})

    batch = answered(client, job.fine_tuned_model, [*rows[:39], {**rows[39], "amount": "plenty"}, *rows[40:]])
    assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("completed", 419, 1)
    told = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert [each["line"] for each in told] == [*range(1, 40), *range(41, 421)]
    again = [each["prediction"]["probabilities"]["yes"] for each in told[:39]]
    assert again == pytest.approx(scored[:39]), "a batch's rows are answered as those that somebody waits for"
    (refused,) = [json.loads(line) for line in client.files.content(batch.error_file_id).text.splitlines()]
    assert (refused["line"], refused["error"]["code"]) == (40, "not_a_number")
    rows_paid = 40 + 1 + 419
    assert used_at_last(client, stack, "prediction.rows", rows_paid) == rows_paid
    assert sum(each["balance_micro_usd"] for each in asked(client, stack, "/api/ledger")["data"]) == 0


def answered(client: OpenAI, model: str, rows: list[dict[str, Any]]) -> Any:
    """The batch over a table of plain rows, once it has ended."""
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = client.files.create(file=("portfolio.jsonl", io.BytesIO(content)), purpose="batch")
    endpoint: Any = "/v1/predictions"
    batch = client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", extra_body={"model": model}
    )
    end = time.monotonic() + 120
    while batch.status not in ("completed", "failed", "cancelled", "expired") and time.monotonic() < end:
        time.sleep(0.3)
        batch = client.batches.retrieve(batch.id)
    return batch


def used_at_last(client: OpenAI, stack: Any, unit: str, expected: int) -> int:
    """The quantity of a unit, once it is what it should be or time is over."""
    end = time.monotonic() + 20
    while (found := used(client, stack)[unit]) != expected and time.monotonic() < end:
        time.sleep(0.3)
    return found
