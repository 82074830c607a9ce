"""A table's whole way with the unmodified openai SDK: free columns, job, whole model, rows paid by the row."""

import io
import json
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
