"""How the demo's findings look in a terminal: report, figures, predictions, usage, invoice, what to do next."""

import json
import shlex
from typing import Any

from rich.console import Console
from rich.table import Column, Table

MOST_PROBLEMS = 5


def report(console: Console, found: dict[str, Any]) -> None:
    """Which column is what and why, how the rows are split, and what is wrong with which."""
    for chosen in found["columns"]:
        console.print(f"  {chosen['role']} ← {chosen['column']}: {chosen['reason']}", highlight=False)
    rows, splits = found["rows"], found["splits"]
    told = ", ".join(f"{count:,} {split}" for split, count in splits.items())
    console.print(f"  {rows['kept']:,} of {rows['read']:,} rows kept ({told}), {len(found['labels'])} labels")
    problems = found["problems"]
    console.print(f"  {problems['total']} problems", highlight=False)
    for problem in problems["first"][:MOST_PROBLEMS]:
        where = f"{problem['unit']} {problem['line']}"
        console.print(f"    {where}: {problem['message']}; {problem['cure']}", highlight=False)


def figures(console: Console, model: str, found: dict[str, Any]) -> None:
    """Test accuracy with its interval beside the baselines, and what is out of scope."""
    measured, metrics = found["report"], found["metrics"]
    table = Table("on the test rows, seen once", "accuracy", "95 % interval")
    low, high = measured["interval"]
    table.add_row(f"{measured['rung']} (chosen)", f"{metrics['accuracy']:.2%}", f"{low:.2%} to {high:.2%}")
    for name, title in (("tfidf_svm", "TF-IDF + linear SVM"), ("majority", "majority class")):
        table.add_row(title, f"{measured['baselines'][name]:.2%}", "")
    console.print(table)
    if scope := measured.get("scope"):
        caught = f"{scope['recall_at_5_false_alarms']:.0%} of {int(scope['rows'])} found at 5 % false alarms"
        console.print(f"Out of scope: AUROC {scope['auroc']:.3f}, {caught}", highlight=False)
    console.print(f"Model: {model}", highlight=False)


def prediction(console: Console, found: dict[str, Any], text: str) -> None:
    """A label and its probability, or that it is none of the known ones."""
    said = "(out of scope)" if found["out_of_scope"] else found["output"]
    console.print(f"  {said:<22} {found['score']:.2f}  [dim]{text[:80]}[/dim]", highlight=False, soft_wrap=True)


def usage(console: Console, lines: list[dict[str, Any]]) -> None:
    """What was used by what."""
    table = Table("used", Column("by", overflow="fold"), "quantity", "events")
    for line in lines:
        table.add_row(line["title"], line["subject"], f"{line['quantity']:,}", str(line["events"]))
    console.print(table)


def invoice(console: Console, found: dict[str, Any]) -> None:
    """Each line and the total, to the cent."""
    for line in found["lines"]:
        price = f"{line['micro_usd']:,} micro-USD for each {line['per_quantity']:,}"
        console.print(f"  {line['title']}: {line['quantity']:,} at {price} = {line['amount']}", highlight=False)
    console.print(f"  [bold]{found['month']}: {found['total']}[/bold]", highlight=False)


def onward(url: str, account: dict[str, str], question: dict[str, Any]) -> None:
    """Lines to go on with, printed plain so that they can be copied."""
    key = account["key"]
    headers = f"-H 'Authorization: Bearer {key}' -H 'Content-Type: application/json'"
    code = f"from openai import OpenAI; c = OpenAI(base_url={url + '/v1'!r}, api_key={key!r}); print(c.models.list())"
    print(f"\nOpen {url} and sign in as {account['email']} with the password {account['password']}")
    print(f"curl {url}/v1/predictions {headers} -d {shlex.quote(json.dumps(question))}")
    print(f'.venv/bin/python -c "{code}"\n')
