"""``make demo``: one datum's whole way, through the product's own API, as a customer would go it."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tilth.local import shown
from tilth.local.stack import ROOT, Stack

if TYPE_CHECKING:
    from openai import OpenAI

SAMPLE = ROOT / "verticals" / "support_chat" / "sample.jsonl"
VERTICAL, BASE, ALIAS = "support_chat", "minilm-l6", "support-desk"
POLL_S = 0.2
PATIENCE_S = 120.0
"""For a validation report."""
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

    client: "OpenAI"
    console: Console
    url: str

    def ask(self, path: str, **query: Any) -> Any:
        """A GET of the management API."""
        return self.client.with_options(base_url=self.url).get(path, cast_to=object, options={"params": query})

    def tell(self, path: str, body: dict[str, Any]) -> Any:
        """A POST of the management API."""
        return self.client.with_options(base_url=self.url).post(path, cast_to=object, body=body)

    def upload(self, path: Path) -> str:
        """Uploads a file and waits until it is checked."""
        with path.open("rb") as file:
            made = self.client.files.create(file=file, purpose="fine-tune")
        checked = self.client.files.wait_for_processing(made.id, poll_interval=POLL_S)
        self.console.print(f"{path.name}: {made.bytes:,} bytes, {checked.status} as {made.id}")
        if checked.status == "error":
            raise DemoFailed(f"{path} cannot be read: {checked.status_details}")
        return made.id

    def report(self, training: str, test: str | None) -> dict[str, Any]:
        """The validation report of the files together, frozen as they will be learned from."""
        wish = {"vertical": VERTICAL, "training_file": training, "test_file": test, "accept_bad_rows": True}
        check = self.tell("/api/datasets", wish)
        end = time.monotonic() + PATIENCE_S
        while check["state"] == "pending":
            if time.monotonic() > end:
                raise DemoFailed(f"the check of {training} took over {PATIENCE_S:.0f} s; see var/logs/worker.log")
            time.sleep(POLL_S)
            check = self.ask(f"/api/checks/{check['id']}")
        if check["state"] != "passed":
            raise DemoFailed(f"the rows cannot be learned from: {check['error']}")
        report: dict[str, Any] = check["report"]
        shown.report(self.console, report)
        return report

    def train(self, training: str, test: str | None) -> str:
        """A job on the ladder; returns the fine-tuned model's name."""
        options = {"accept_bad_rows": True, **({"test_file": test} if test else {})}
        extra = {"vertical": VERTICAL, "options": options}
        job = self.client.fine_tuning.jobs.create(model=BASE, training_file=training, extra_body=extra)
        columns = (TextColumn("  {task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console) as bar:
            job = self._watch(job.id, bar)
        if job.status != "succeeded" or not job.fine_tuned_model:
            raise DemoFailed(f"the job has {job.status}: {job.error}")
        model: str = job.fine_tuned_model
        return model

    def _watch(self, job_id: str, bar: Progress) -> Any:
        """Follows a job's events until it has ended; each training step moves the bar, all else is a line."""
        seen: set[str] = set()
        line = bar.add_task("waiting for a trainer", total=1.0)
        while True:
            job = self.client.fine_tuning.jobs.retrieve(job_id)
            for event in reversed(self.client.fine_tuning.jobs.list_events(job_id, limit=100).data):
                data: dict[str, Any] = event.data if isinstance(event.data, dict) else {}
                if event.id not in seen and "train_loss" in data:
                    step = f"{data['rung']} {data['step']}/{data['total_steps']}"
                    bar.update(line, description=f"{step}, training loss {data['train_loss']:.3f}")
                elif event.id not in seen:
                    bar.console.print(f"  [dim]{event.message}[/dim]", highlight=False)
                seen.add(event.id)
            bar.update(line, completed=job.model_dump().get("progress") or 0.0)
            if job.status in ("succeeded", "failed", "cancelled"):
                bar.update(line, completed=1.0, description=job.status)
                return job
            time.sleep(POLL_S)

    def deploy(self, model: str) -> None:
        """A finished model answers under its own name; here it also gets one that stays when it is replaced."""
        made = self.tell("/api/deployments", {"name": ALIAS, "model": model})
        self.console.print(f"{made['name']} → {made['model']}", highlight=False)

    def predict(self, model: str, texts: list[str]) -> None:
        """Asks the deployed model."""
        for text in texts:
            reply: Any = self.client.post("/predictions", cast_to=object, body=_question(model, text))
            shown.prediction(self.console, reply["data"][0], text)
        self.console.print(f"  [dim]answered by the adapter {reply['digest']}[/dim]", highlight=False)

    def usage(self, predictions: int) -> list[dict[str, Any]]:
        """The usage lines, once all predictions are among them."""
        end = time.monotonic() + SETTLED_S
        while True:
            lines: list[dict[str, Any]] = self.ask("/api/usage")["data"]
            counted = sum(line["events"] for line in lines if line["unit"].startswith("prediction"))
            if counted >= predictions or time.monotonic() > end:
                return lines
            time.sleep(POLL_S)


def demo(stack: Stack, console: Console, *, data: Path | None = None, test: Path | None = None) -> None:
    """The whole way; raises DemoFailed when something is not as it must be."""
    try:
        from openai import OpenAI, OpenAIError
    except ImportError:
        raise DemoFailed("the package openai is not installed; install the extra: pip install -e '.[demo]'") from None
    begun = time.monotonic()
    account: dict[str, str] = json.loads(stack.manage("seed_demo").splitlines()[-1])
    client = OpenAI(base_url=f"{stack.web_url}/v1", api_key=account["key"])
    try:
        text = walk(Demo(client, console, stack.web_url), data, test)
    except (OpenAIError, OSError) as error:
        raise DemoFailed(f"{type(error).__name__}: {error}; see {stack.var / 'logs'}") from error
    console.print(f"[dim]the whole way took {time.monotonic() - begun:.0f} s[/dim]")
    shown.onward(stack.web_url, account, _question(ALIAS, text))


def walk(customer: Demo, data: Path | None, test: Path | None) -> str:
    """From rows to invoice; returns a text that was answered."""
    console = customer.console
    console.rule("Upload and validation")
    training = customer.upload(data or SAMPLE)
    held_out = customer.upload(test) if test else None
    report = customer.report(training, held_out)
    console.rule("Training")
    model = customer.train(training, held_out)
    shown.figures(console, model, customer.client.models.retrieve(model).model_dump())
    console.rule("Deployment and predictions")
    customer.deploy(model)
    texts = list(QUESTIONS) if data is None else _previewed(report)
    customer.predict(ALIAS, texts)
    console.rule("Usage and invoice preview")
    shown.usage(console, customer.usage(len(texts)))
    shown.invoice(console, customer.ask("/api/invoice"))
    return texts[0]


def _question(model: str, text: str) -> dict[str, Any]:
    return {"model": model, "inputs": [{"text": text}]}


def _previewed(report: dict[str, Any]) -> list[str]:
    """Five texts of a customer's own file, of the test split where the report shows some."""
    rows = sorted(report["preview"], key=lambda row: row["split"] != "test")
    return [str(row["text"]) for row in rows[:5]]
