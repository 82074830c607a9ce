"""The model card: what the model is, how it was judged, and its limits."""

from textwrap import wrap
from typing import Any

from tilth.contract.messages import JobSpec

WIDTH = 110
IN_PERCENT = ("accuracy", "macro_f1", "micro_f1", "subset_accuracy", "lrap", "mean_average_precision", "coverage")


def card(spec: JobSpec, report: dict[str, Any], note: str) -> str:
    """Markdown with peft's front matter; ``note`` says what an answer means."""
    limits = "The model knows only what its training rows say; judge it on rows of your own before you rely on it."
    learned = (
        f"Learned by **{report['rung']}** on the base model `{report['base_model']}` (job {spec.job},"
        f" seed {spec.options.seed}): {report['why']}."
    )
    lines = [
        "---",
        f"base_model: {report['base_model']}",
        "library_name: peft",
        "---",
        f"# A fine-tuned model for {spec.vertical.replace('_', ' ')}",
        "",
        learned,
        "",
        *_scores(report),
        "",
        *wrap(f"{note} {limits}", WIDTH),
    ]
    return "\n".join(lines) + "\n"


def _scores(report: dict[str, Any]) -> list[str]:
    rows, metrics = report["rows"], report["metrics"]
    sizes = f"{rows['train']} training, {rows['validation']} validation and {rows['test']} test rows"
    if not metrics:
        return [f"{sizes}; without test rows that have a known target nothing can be said of its {report['selects']}."]
    low, high = (_shown(report["selects"], end) for end in report["interval"])
    told = [f"{sizes}, {report['classes']} outputs.", "", "| on the test split | |", "|---|---:|"]
    for name, value in metrics.items():
        interval = f" [{low}, {high}]" if name == report["selects"] else ""
        told.append(f"| {name} | {_shown(name, value)}{interval} |")
    told += [
        f"| {name}: {report['selects']} | {_shown(report['selects'], v)} |" for name, v in report["baselines"].items()
    ]
    return told


def _shown(name: str, value: float) -> str:
    return f"{100 * value:.2f} %" if name in IN_PERCENT else f"{value:.4f}"
