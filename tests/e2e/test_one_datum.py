"""One datum's whole way with the unmodified openai SDK: rows, job, model, prediction, usage, ledger, invoice."""

import io
import json
import time
import zipfile
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from tilth.contract.registry import vertical
from tilth.core.money import Price, cents

pytestmark = [pytest.mark.stack, pytest.mark.slow]

SAMPLE = Path(__file__).resolve().parents[2] / "verticals" / "support_chat" / "sample.jsonl"


def small_sample() -> bytes:
    """A third of the sample, four intents and what is out of scope: seconds, not minutes."""
    kept = {"track_order", "reset_password", "damaged_item", "invoice_request", "out_of_scope"}
    lines = [line for line in SAMPLE.read_text().splitlines() if json.loads(line)["intent"] in kept]
    return "\n".join(lines).encode()


def client_of(stack: Any) -> OpenAI:
    return OpenAI(base_url=f"{stack.url}/v1", api_key=stack.account()["key"], max_retries=2)


def asked(client: OpenAI, stack: Any, path: str) -> Any:
    return client.with_options(base_url=stack.url).get(path, cast_to=object)


def finished(client: OpenAI, job: str) -> Any:
    end = time.monotonic() + 240
    while time.monotonic() < end:
        found = client.fine_tuning.jobs.retrieve(job)
        if found.status in ("succeeded", "failed", "cancelled"):
            return found
        time.sleep(0.3)
    raise AssertionError(f"the job is still {found.status}")


def trained(client: OpenAI, **options: Any) -> Any:
    file = client.files.create(file=("rows.jsonl", io.BytesIO(small_sample())), purpose="fine-tune")
    assert client.files.wait_for_processing(file.id, poll_interval=0.2).status == "processed"
    extra = {"vertical": "support_chat", "options": options}
    return client.fine_tuning.jobs.create(model="minilm-l6", training_file=file.id, suffix="e2e", extra_body=extra)


def test_a_row_becomes_an_invoice_line_to_the_cent(stack: Any) -> None:
    client = client_of(stack)
    job = finished(client, trained(client, highest_rung="probe").id)
    assert (job.status, job.error) == ("succeeded", None)
    events = [
        event for page in client.fine_tuning.jobs.list_events(job.id, limit=5).iter_pages() for event in page.data
    ]
    assert len({event.id for event in events}) == len(events) > 5
    assert any("Files validated" in event.message for event in events)
    assert client.fine_tuning.jobs.checkpoints.list(job.id).data[0].fine_tuning_job_id == job.id

    metrics, board, curves = job.result_files
    header, first, *_ = client.files.content(metrics).text.splitlines()
    assert header.startswith("step,rung,train_loss,valid_loss,valid_accuracy")
    assert ",probe," in first
    assert client.files.content(board).text.splitlines()[1].startswith("probe,,probe,accuracy,0.")
    with zipfile.ZipFile(io.BytesIO(client.files.content(curves).content)) as archive:
        assert [name.partition("/")[0] for name in archive.namelist()] == ["probe"]

    model = job.fine_tuned_model
    assert model is not None
    assert model in [each.id for each in client.models.list()]
    detail = client.models.retrieve(model).model_dump()
    assert detail["metrics"]["accuracy"] > 0.8

    body = {"model": model, "inputs": [{"text": "my parcel never came"}, {"text": "what is the capital of Peru"}]}
    reply: Any = client.post("/predictions", cast_to=object, body=body)
    assert reply["digest"] == detail["digest"]
    assert reply["data"][0]["output"] == "track_order"
    assert sum(reply["data"][0]["probabilities"].values()) == pytest.approx(1.0)
    assert reply["usage"]["rows"] == 2

    lines = used(client, stack)
    device_ms, tokens = lines["training.device_ms"], lines["prediction.tokens"]
    assert tokens == reply["usage"]["tokens"]
    units = {unit.name: Price(unit.micro_usd, unit.per_quantity) for unit in vertical("support_chat").units}
    expected = [cents(lines[unit], units[unit]) for unit in ("training.device_ms", "prediction.tokens")]
    invoice = asked(client, stack, "/api/invoice")
    assert sorted(line["amount_cents"] for line in invoice["lines"]) == sorted(expected)
    assert invoice["total_cents"] == sum(expected)
    assert 0 < device_ms <= 1000 * (job.finished_at - job.created_at + 2)
    assert sum(each["balance_micro_usd"] for each in asked(client, stack, "/api/ledger")["data"]) == 0


def used(client: OpenAI, stack: Any) -> dict[str, int]:
    """Quantities by unit, once both have been folded into the ledger."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        lines = {line["unit"]: line["quantity"] for line in asked(client, stack, "/api/usage")["data"]}
        ledger = asked(client, stack, "/api/ledger")["data"]
        if len(lines) == 2 and ledger:
            return lines
        time.sleep(0.3)
    raise AssertionError(f"usage was not folded in time: {lines}")


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_every_call_of_the_sdk_does_what_it_does_at_home(stack: Any) -> None:
    client = client_of(stack)
    rows = b"text,label\n" + b"".join(b"row %d,%s\n" % (n, [b"a", b"b"][n % 2]) for n in range(20))
    files = [client.files.create(file=(f"{n}.csv", rows + b"more %d,a\n" % n), purpose="fine-tune") for n in range(3)]
    assert [file.id for file in client.files.list(limit=1)] == [file.id for file in reversed(files)]
    assert client.files.retrieve(files[0].id).filename == "0.csv"
    assert client.files.content(files[0].id).read().startswith(b"text,label\n")
    assert client.files.delete(files[2].id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(files[2].id)

    alike = client.embeddings.create(model="minilm-l6", input=["my parcel is late", "the package has not come", "tea"])
    first, second, third = (each.embedding for each in alike.data)
    assert len(first) == 384
    assert dot(first, second) > dot(first, third) + 0.2

    job = trained(client)
    paused = client.fine_tuning.jobs.pause(job.id) if _queued(client, job.id) else job
    assert paused.id == job.id
    client.fine_tuning.jobs.resume(job.id)
    assert client.fine_tuning.jobs.cancel(job.id).id == job.id
    assert finished(client, job.id).status == "cancelled"
    assert job.id in [each.id for each in client.fine_tuning.jobs.list(limit=1)]


def _queued(client: OpenAI, job: str) -> bool:
    """Waits until the files are checked: a job can be paused from then on."""
    end = time.monotonic() + 60
    while client.fine_tuning.jobs.retrieve(job).status == "validating_files" and time.monotonic() < end:
        time.sleep(0.1)
    return True


def test_every_error_is_the_sdks_own_exception(stack: Any) -> None:
    client, other = client_of(stack), client_of(stack)
    with pytest.raises(openai.AuthenticationError):
        OpenAI(base_url=f"{stack.url}/v1", api_key="tilth_live_wrong").models.list()
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.retrieve("ftjob-" + "0" * 32)
    with pytest.raises(openai.BadRequestError, match="whole number from 1 to 100"):
        client.fine_tuning.jobs.create(
            model="minilm-l6", training_file="file-" + "0" * 32, hyperparameters={"n_epochs": -1}
        )
    theirs = other.files.create(file=("r.csv", b"text,label\na,b\n"), purpose="fine-tune")
    with pytest.raises(openai.NotFoundError) as hidden:
        client.files.retrieve(theirs.id)
    with pytest.raises(openai.NotFoundError) as absent:
        client.files.retrieve("file-" + "1" * 32)
    assert str(hidden.value).replace(theirs.id, "ID") == str(absent.value).replace("file-" + "1" * 32, "ID")


def test_a_killed_trainer_goes_on_from_its_checkpoint(stack: Any) -> None:
    import os
    import signal

    import psutil

    client = client_of(stack)
    job = trained(client, epochs=3)
    step, total = _middle(client, job.id)
    assert 0.25 <= step / total <= 0.75, f"hit at step {step} of {total}"
    trainers = [p for p in psutil.Process(stack.process.pid).children(recursive=True) if _runs_a_job(p)]
    for each in trainers:
        os.kill(each.pid, signal.SIGKILL)
    assert trainers
    done = finished(client, job.id)
    assert (done.status, done.error) == ("succeeded", None)
    assert done.model_dump()["attempt"] >= 2
    events = client.fine_tuning.jobs.list_events(job.id, limit=100).data
    resumed = [
        e.data["resumed_from_step"] for e in events if isinstance(e.data, dict) and "resumed_from_step" in e.data
    ]
    assert max(resumed) > 0
    billed = done.model_dump()["device_ms"]
    assert 0 < billed <= 1000 * (done.finished_at - done.created_at + 2)
    steps = [e.id for e in events]
    assert len(steps) == len(set(steps))


def _middle(client: OpenAI, job: str) -> tuple[int, int]:
    """Waits for a step in the second quarter of the run, after a checkpoint of LoRA's."""
    end = time.monotonic() + 240
    while time.monotonic() < end:
        for event in client.fine_tuning.jobs.list_events(job, limit=20).data:
            data = event.data if isinstance(event.data, dict) else {}
            if data.get("rung") == "lora" and "total_steps" in data and data["step"] / data["total_steps"] >= 0.4:
                return int(data["step"]), int(data["total_steps"])
        time.sleep(0.1)
    raise AssertionError("the job did not reach its middle")


def _runs_a_job(process: Any) -> bool:
    try:
        return "Trainer.run" in " ".join(process.cmdline()) or "ray::Trainer.run" in process.name()
    except Exception:
        return False
