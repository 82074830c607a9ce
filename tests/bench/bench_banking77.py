"""banking77 through the product's own API: file, job, model; what the customer waits for; what is out of scope."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI

NAME = "banking77"
DATA = Path(os.environ.get("TILTH_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")) / "banking77"
UNKNOWN = "out_of_scope"
HELD_OUT = 10
SHORT = 30
PUBLISHED = "BERT-tuned 93.66, TF-IDF + SVM 91.17"
PATIENCE_S = 3600

Rows = list[tuple[str, str]]


@dataclass(frozen=True)
class Product:
    """A running stack and an organisation in it."""

    client: OpenAI
    began: float
    """When it was started, on the monotonic clock."""


def run(*, full: bool) -> list[dict[str, str]]:
    """In full: the ladder, three seeds, then a probe with ten intents held out. In short: a probe, SHORT rows each."""
    if not (DATA / "train.csv").exists():
        return [{"what": f"not run: {DATA} is not there (TILTH_DATA)"}]
    rung, seeds = ("lora", (0, 1, 2)) if full else ("probe", (0,))
    train, test = rows("train"), rows("test")
    train = train if full else firsts(train, SHORT)
    with product() as stack:
        files = upload(stack.client, train), upload(stack.client, test)
        jobs = [learned(stack, *files, seed=seed, highest_rung=rung) for seed in seeds]
        lines = [waited("from a cold start of everything", stack.began, jobs[0])]
        if not full:
            return [*lines, accuracy_line(f"test accuracy, {rung}, {SHORT} rows of each intent", jobs[0])]
        known, unknown = held_out(train, test)
        files = upload(stack.client, known), upload(stack.client, unknown)
        outside = learned(stack, *files, seed=0, highest_rung="probe")
        lines.append(waited("warm", outside["asked"], outside))
    found = [job["model"]["metrics"]["accuracy"] for job in jobs]
    lines += [accuracy_line(f"test accuracy, {rung}, seed {seed}", job) for seed, job in zip(seeds, jobs, strict=True)]
    mean = {"what": f"test accuracy, mean of {len(found)}", "found": f"{100 * sum(found) / len(found):.2f} %"}
    lines.append({**mean, "beside": PUBLISHED, "goal": "> 93.66, mean of 3"})
    return [*lines, *scope_lines(outside)]


def rows(part: str) -> Rows:
    """(text, intent) of a published split."""
    with (DATA / f"{part}.csv").open(newline="") as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(file)]


def firsts(table: Rows, count: int) -> Rows:
    """The first so many rows of each intent."""
    seen = Counter[str]()
    return [row for row in table if seen.update([row[1]]) or seen[row[1]] <= count]


def held_out(train: Rows, test: Rows) -> tuple[Rows, Rows]:
    """The last ten intents are never trained on; their test rows are out of scope."""
    unknown = set(sorted({label for _, label in train})[-HELD_OUT:])
    kept = [(text, label) for text, label in train if label not in unknown]
    return kept, [(text, UNKNOWN if label in unknown else label) for text, label in test]


@contextmanager
def product() -> Iterator[Product]:
    """``tilth up`` on a folder of its own, with an organisation and a key."""
    folder = Path(tempfile.mkdtemp(prefix="tilth-b-"))
    folder.chmod(0o755)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("TILTH_", "DATABASE_URL", "RAY_"))}
    env["TILTH_VAR"] = str(folder / "var")
    command = [sys.executable, "-m", "tilth.local"]
    began = time.monotonic()
    with (folder / "output").open("w+") as output:
        process = subprocess.Popen([*command, "up"], env=env, stdout=output, stderr=output)
        try:
            while "Tilth runs at" not in (said := (folder / "output").read_text()):
                if process.poll() is not None or time.monotonic() - began > PATIENCE_S:
                    raise RuntimeError(said)
                time.sleep(0.05)
            made = subprocess.run(
                [*command, "manage", "seed_demo"], env=env, check=True, capture_output=True, text=True
            )
            url = json.loads((folder / "var" / "stack.json").read_text())["web_url"]
            key = json.loads(made.stdout.splitlines()[-1])["key"]
            yield Product(OpenAI(base_url=f"{url}/v1", api_key=key), began)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
            shutil.rmtree(folder, ignore_errors=True)


def upload(client: OpenAI, table: Rows) -> str:
    """The file's id; columns named as a customer names them."""
    text = io.StringIO()
    csv.writer(text).writerows([("text", "category"), *table])
    file = client.files.create(file=("rows.csv", io.BytesIO(text.getvalue().encode())), purpose="fine-tune")
    return client.files.wait_for_processing(file.id, poll_interval=0.1).id


def learned(stack: Product, training: str, test: str, **options: Any) -> dict[str, Any]:
    """A job to its end: {model, asked, first_step, seconds}; times on the monotonic clock."""
    jobs = stack.client.fine_tuning.jobs
    extra = {"vertical": "support_chat", "options": {"test_file": test, **options}}
    asked, first = time.monotonic(), 0.0
    job = jobs.create(model="minilm-l6", training_file=training, extra_body=extra)
    while job.status not in ("succeeded", "failed", "cancelled"):
        told = jobs.list_events(job.id, limit=20).data
        if not first and any(re.match(r"Step \d+/", event.message) for event in told):
            first = time.monotonic()
        time.sleep(0.02 if not first else 1.0)
        job = jobs.retrieve(job.id)
    seconds = time.monotonic() - asked
    if not job.fine_tuned_model:
        raise RuntimeError(f"{job.id} {job.status}: {job.error}")
    found = stack.client.models.retrieve(job.fine_tuned_model).model_dump()
    report, accuracy = found["report"], found["metrics"]["accuracy"]
    print(f"  {options}: {report['rung']} {accuracy:.2%}, {seconds:.0f} s", flush=True)
    return {"model": found, "asked": asked, "first_step": first, "seconds": seconds}


def waited(what: str, since: float, job: dict[str, Any]) -> dict[str, str]:
    """Seconds until the first training step."""
    goal = "≤ 2 s" if what == "warm" else ""
    return {"what": f"POST → first training step, {what}", "found": f"{job['first_step'] - since:.1f} s", "goal": goal}


def accuracy_line(what: str, job: dict[str, Any]) -> dict[str, str]:
    """One run."""
    report, metrics = job["model"]["report"], job["model"]["metrics"]
    low, high = report["interval"]
    beside = f"TF-IDF here {100 * report['baselines']['tfidf_svm']:.2f}"
    found = f"{100 * metrics['accuracy']:.2f} % [{100 * low:.2f}, {100 * high:.2f}]"
    chosen = f"{report['rung']}, ECE {metrics['ece']:.3f}, {job['seconds']:.0f} s"
    return {"what": what, "found": found, "beside": beside, "note": chosen}


def scope_lines(job: dict[str, Any]) -> list[dict[str, str]]:
    """How well the ten unseen intents are told from the others."""
    scope, what = job["model"]["report"]["scope"], f"{HELD_OUT} intents held out"
    return [
        {"what": f"{what}: AUROC", "found": f"{scope['auroc']:.3f}"},
        {"what": f"{what}: found at 5 % false alarms", "found": f"{100 * scope['recall_at_5_false_alarms']:.1f} %"},
    ]
