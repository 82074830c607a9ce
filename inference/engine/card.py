"""The model card: what the model is, how it was judged, and its limits."""

from typing import Any

from tilth.contract.messages import JobSpec


def card(spec: JobSpec, report: dict[str, Any]) -> str:
    """Markdown with peft's front matter."""
    lines = [
        "---",
        f"base_model: {spec.base_model}",
        "library_name: peft",
        "---",
        f"# A fine-tuned model for {spec.vertical.replace('_', ' ')}",
        "",
        f"Learned by the rung **{report['rung']}** on the base model `{spec.base_model}` (job {spec.job},"
        f" seed {spec.options.seed}): {report['why']}.",
        "",
        *_scores(report),
        "",
        "Probabilities are calibrated by one temperature on the validation split. A row is out of scope when its",
        "score falls below a threshold at which 5 % of in-scope validation rows fall. The model knows only",
        "the language and the labels of its training rows; judge it on rows of your own before you rely on it.",
    ]
    return "\n".join(lines) + "\n"


def _scores(report: dict[str, Any]) -> list[str]:
    rows, metrics = report["rows"], report["metrics"]
    sizes = f"{rows['train']} training, {rows['validation']} validation and {rows['test']} test rows"
    if not metrics:
        return [f"{sizes}; without in-scope test rows nothing can be said of its accuracy."]
    low, high = report["interval"]
    told = [f"{sizes}, {report['classes']} classes.", "", "| on the test split | |", "|---|---:|"]
    told += [f"| accuracy | {100 * metrics['accuracy']:.2f} % [{100 * low:.2f}, {100 * high:.2f}] |"]
    told += [f"| macro-F1 | {100 * metrics['macro_f1']:.2f} % |", f"| calibration error | {metrics['ece']:.4f} |"]
    return [*told, *[f"| {name} | {100 * value:.2f} % |" for name, value in report["baselines"].items()]]
