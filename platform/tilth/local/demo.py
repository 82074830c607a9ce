"""``make demo``: one datum's whole way, through the product's own API, as a customer would go it."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tilth.local.stack import ROOT, Stack

SAMPLE = ROOT / "verticals" / "support_chat" / "sample.jsonl"
VERTICAL, BASE = "support_chat", "minilm-l6"
POLL_S = 0.2
SETTLED_S = 10.0
"""Usage is folded every second; so long the demo waits for its own to show."""
QUESTIONS = (
    "my parcel was due on monday and there's still no sign of it",
    "the mug I unpacked this morning has a crack in it",
    "pls stop my box while I'm abroad in august",
    "how do I get a copy of the bill for my accountant?",
    "what's the best way to cook asparagus",
)


class DemoFailed(RuntimeError):
    """The demo met something that a customer should never meet."""


@dataclass
class Demo:
    """A customer with a key, and a console that shows what happens."""

    stack: Stack
    console: Console
    account: dict[str, str]

    def __post_init__(self) -> None:
        from openai import OpenAI

        self.client = OpenAI(base_url=f"{self.stack.web_url}/v1", api_key=self.account["key"])

    def ask(self, path: str, **query: Any) -> Any:
        """A GET of the management API."""
        return self.client.with_options(base_url=self.stack.web_url).get(
            path, cast_to=object, options={"params": query}
        )

    def upload(self, path: Path) -> str:
        """Uploads a file and waits until it is checked."""
        self.console.rule("Upload")
        with path.open("rb") as file:
            made = self.client.files.create(file=file, purpose="fine-tune")
        checked = self.client.files.wait_for_processing(made.id, poll_interval=POLL_S)
        self.console.print(f"{path.name}: {made.bytes:,} bytes, {checked.status} as {made.id}")
        return made.id

    def report(self, file: str) -> dict[str, Any]:
        """The validation report of a file for the vertical."""
        end = time.monotonic() + 120
        while time.monotonic() < end:
            check = self.ask(f"/api/files/{file}/report", vertical=VERTICAL, accept_bad_rows="true")["check"]
            if check["state"] != "pending":
                break
            time.sleep(POLL_S)
        if check["state"] != "passed":
            raise DemoFailed(f"the rows cannot be learned from: {check['error']}")
        self._show_report(check["report"])
        report: dict[str, Any] = check["report"]
        return report

    def train(self, training: str, test: str | None) -> str:
        """A job on the ladder; returns the fine-tuned model's name."""
        self.console.rule("Training")
        options = {"accept_bad_rows": True, **({"test_file": test} if test else {})}
        extra = {"vertical": VERTICAL, "options": options}
        job = self.client.fine_tuning.jobs.create(model=BASE, training_file=training, extra_body=extra)
        with Progress(
            TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=self.console
        ) as bar:
            job = self._watch(job.id, bar)
        if job.status != "succeeded" or not job.fine_tuned_model:
            raise DemoFailed(f"the job has {job.status}: {job.error}")
        return str(job.fine_tuned_model)

    def _watch(self, job_id: str, bar: Progress) -> Any:
        """Follows a job's events until it has ended."""
        seen: set[str] = set()
        line = bar.add_task("waiting", total=1.0)
        while True:
            job = self.client.fine_tuning.jobs.retrieve(job_id)
            for event in reversed(self.client.fine_tuning.jobs.list_events(job_id, limit=100).data):
                if event.id not in seen and (event.type != "metrics" or "valid_loss" in str(event.data)):
                    bar.console.print(f"  [dim]{event.message}[/dim]")
                seen.add(event.id)
                if isinstance(event.data, dict) and "train_loss" in event.data:
                    bar.update(line, description=f"{event.data['rung']}, loss {event.data['train_loss']:.3f}")
            bar.update(line, completed=job.model_dump().get("progress") or 0.0)
            if job.status in ("succeeded", "failed", "cancelled"):
                bar.update(line, completed=1.0, description=job.status)
                return job
            time.sleep(POLL_S)

    def judge(self, model: str) -> None:
        """Test accuracy with its interval beside the baselines, and what is out of scope."""
        found = self.client.models.retrieve(model).model_dump()
        report, metrics = found["report"], found["metrics"]
        table = Table(title="On the test split, touched once", title_justify="left")
        for column in ("model", "accuracy", "95 % interval"):
            table.add_column(column)
        low, high = report["interval"]
        table.add_row(f"{model} ({report['rung']})", f"{metrics['accuracy']:.2%}", f"{low:.2%} … {high:.2%}")
        for name, title in (("tfidf_svm", "TF-IDF + linear SVM"), ("majority", "majority class")):
            table.add_row(title, f"{report['baselines'][name]:.2%}", "")
        self.console.print(table)
        self.console.print(f"Why this rung: {report['why']}")
        if scope := report.get("scope"):
            caught = f"{scope['recall_at_5_false_alarms']:.0%} of {int(scope['rows'])} found at 5 % false alarms"
            self.console.print(f"Out of scope: AUROC {scope['auroc']:.3f}, {caught}")

    def predict(self, model: str, texts: list[str]) -> None:
        """Asks the deployed model."""
        self.console.rule("Predictions")
        for text in texts:
            body = {"model": model, "inputs": [{"text": text}]}
            reply: Any = self.client.post("/predictions", cast_to=object, body=body)
            first = reply["data"][0]
            said = "out of scope" if first["out_of_scope"] else first["output"]
            self.console.print(f"  {said:<22} {first['score']:.2f}  [dim]{text[:80]}[/dim]", highlight=False)
        self.console.print(f"[dim]answered by {reply['digest']}[/dim]", highlight=False)

    def bill(self, predictions: int) -> None:
        """Usage lines and the invoice preview to the cent."""
        self.console.rule("Usage and invoice preview")
        end = time.monotonic() + SETTLED_S
        while True:
            lines = self.ask("/api/usage")["data"]
            counted = sum(line["events"] for line in lines if line["unit"].startswith("prediction"))
            if counted >= predictions or time.monotonic() > end:
                break
            time.sleep(POLL_S)
        table = Table("used", "by", "quantity", "events")
        for line in lines:
            table.add_row(line["title"], line["subject"], f"{line['quantity']:,}", str(line["events"]))
        self.console.print(table)
        invoice = self.ask("/api/invoice")
        for line in invoice["lines"]:
            price = f"{line['micro_usd']:,} µ$ for each {line['per_quantity']:,}"
            self.console.print(f"  {line['title']}: {line['quantity']:,} at {price} = {line['amount']}")
        self.console.print(f"  [bold]{invoice['month']}: {invoice['total']}[/bold]")

    def onward(self, model: str) -> None:
        """What a newcomer does next."""
        key, url = self.account["key"], self.stack.web_url
        body = json.dumps({"model": model, "inputs": [{"text": QUESTIONS[0]}]})
        self.console.rule("Go on")
        print(f"Open {url}\n  sign in as {self.account['email']} with the password {self.account['password']}")
        print(
            f"curl {url}/v1/predictions -H 'Authorization: Bearer {key}' \\\n"
            f"  -H 'Content-Type: application/json' -d '{body}'"
        )
        print(
            f"python -c \"from openai import OpenAI; c = OpenAI(base_url='{url}/v1', api_key='{key}');"
            ' print(c.models.list())"'
        )

    def _show_report(self, report: dict[str, Any]) -> None:
        """Which column is what and why, how the rows are split, and what is wrong with which."""
        for chosen in report["columns"]:
            self.console.print(f"  {chosen['role']} ← {chosen['column']}: {chosen['reason']}", highlight=False)
        rows, splits = report["rows"], report["splits"]
        told = ", ".join(f"{count:,} {split}" for split, count in splits.items())
        self.console.print(f"  {rows['kept']:,} of {rows['read']:,} rows kept ({told}), {len(report['labels'])} labels")
        problems = report["problems"]
        self.console.print(f"  {problems['total']} problems", highlight=False)
        for problem in problems["first"][:5]:
            self.console.print(f"    line {problem['line']}: {problem['message']}; {problem['cure']}", highlight=False)


def demo(stack: Stack, console: Console, *, data: Path | None = None, test: Path | None = None) -> None:
    """The whole way; raises DemoFailed when something is not as it must be."""
    begun = time.monotonic()
    shown = Demo(stack, console, json.loads(stack.manage("seed_demo").splitlines()[-1]))
    training = shown.upload(data or SAMPLE)
    held_out = shown.upload(test) if test else None
    report = shown.report(training)
    model = shown.train(training, held_out)
    shown.judge(model)
    texts = list(QUESTIONS) if data is None else _preview_texts(report)
    shown.predict(model, texts)
    shown.bill(len(texts))
    console.print(f"[dim]the whole way took {time.monotonic() - begun:.0f} s[/dim]")
    shown.onward(model)


def _preview_texts(report: dict[str, Any]) -> list[str]:
    """Five texts of a customer's own file, of the test split where the report shows some."""
    rows = sorted(report["preview"], key=lambda row: row["split"] != "test")
    return [str(row["text"]) for row in rows[:5]]
