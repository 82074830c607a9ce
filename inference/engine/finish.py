"""After the climb: calibrate, judge once on the test split, and pack the model's folder with its card."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from tilth.contract.messages import JobSpec
from torch import Tensor

from inference.adapters.folder import pack_folder
from inference.engine.base_models import Base
from inference.engine.baselines import majority, tfidf_svm
from inference.engine.calibrate import ScopeRule, scope_report, scope_rule, temperature
from inference.engine.card import card
from inference.engine.data import Splits
from inference.engine.evaluate import accuracy, cross_entropy, expected_calibration_error, interval, macro_f1
from inference.engine.ladder import Climbed
from inference.engine.lora import Classifier, evaluate_logits, unchanged
from inference.engine.outcome import Outcome
from inference.engine.probe import frozen_features
from inference.engine.task import Examples, Features, Task


@dataclass(frozen=True)
class Finished:
    """Files of the model's folder, the metrics that are shown, and the whole report."""

    files: dict[str, bytes]
    metrics: dict[str, float]
    report: dict[str, Any]


def finish(
    spec: JobSpec,
    base: Base,
    task: Task,
    features: Features,
    splits: Splits,
    climbed: Climbed,
    validation: Examples,
    *,
    with_baseline: bool = True,
) -> Finished:
    """Touches the test split once; without TF-IDF beside it where memory would not do."""
    test = task.encode(splits.test, features, base)
    logits = logits_of(climbed.outcome, base, test)
    valid = climbed.outcome.valid_logits
    known = validation.targets >= 0
    heat = temperature(valid[known], validation.targets[known])
    rule = scope_rule(valid[known] / heat, valid[~known] / heat)
    scope: Features = {"temperature": heat, "scope_score": rule.score, "scope_threshold": rule.threshold}
    settled: Features = {**features, **scope}
    metrics = _metrics(logits, test, heat, task.classes(features))
    report = _report(task, features, splits, climbed, test)
    report["baselines"] = _baselines(task, splits, test, with_baseline=with_baseline)
    report |= {"metrics": metrics, "interval": _interval(logits, test), "scope": _scope(logits / heat, test, rule)}
    head = {"weight": climbed.outcome.head.weight.contiguous(), "bias": climbed.outcome.head.bias.contiguous()}
    lora, config = (climbed.outcome.lora, climbed.outcome.config) if climbed.outcome.lora else unchanged(base)
    files = pack_folder(
        lora={name: tensor.contiguous() for name, tensor in lora.items()},
        config=plain(config), head=head, features=dict(settled), card=card(spec, report),
    )  # fmt: skip
    return Finished(files, metrics, report)


def logits_of(outcome: Outcome, base: Base, examples: Examples) -> Tensor:
    """Logits [rows, classes] of a rung's model."""
    if not outcome.lora:
        return outcome.head.logits(frozen_features(base, examples, lambda _: None))
    model = Classifier(base, outcome.head, int(outcome.config["r"]))
    learned = {f"lora.{name}": tensor for name, tensor in outcome.lora.items()}
    model.restore({**learned, "head.weight": outcome.head.weight, "head.bias": outcome.head.bias})
    return evaluate_logits(model, examples)


def plain(config: dict[str, Any]) -> dict[str, Any]:
    """peft's configuration as JSON: its sets become sorted lists."""
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}


def _known(logits: Tensor, test: Examples) -> tuple[Tensor, Tensor]:
    known = test.targets >= 0
    return logits[known], test.targets[known]


def _metrics(logits: Tensor, test: Examples, heat: float, classes: int) -> dict[str, float]:
    logits, targets = _known(logits, test)
    if not len(targets):
        return {}
    predicted = logits.argmax(1)
    return {
        "accuracy": round(accuracy(predicted, targets), 6),
        "macro_f1": round(macro_f1(predicted, targets, classes), 6),
        "loss": round(cross_entropy(logits / heat, targets), 6),
        "ece": round(expected_calibration_error(logits / heat, targets), 6),
    }


def _interval(logits: Tensor, test: Examples) -> list[float]:
    logits, targets = _known(logits, test)
    return [round(end, 6) for end in interval(logits.argmax(1) == targets)] if len(targets) else []


def _scope(logits: Tensor, test: Examples, rule: ScopeRule) -> dict[str, float] | None:
    known = test.targets >= 0
    if not known.any() or known.all():
        return None
    return {name: round(value, 6) for name, value in scope_report(logits[known], logits[~known], rule).items()}


def _report(task: Task, features: Features, splits: Splits, climbed: Climbed, test: Examples) -> dict[str, Any]:
    sizes = {"train": len(splits.train), "validation": len(splits.validation), "test": len(splits.test)}
    compared = asdict(climbed.comparison) if climbed.comparison else None
    facts = {"rung": climbed.outcome.rung.value, "why": climbed.reason, "comparison": compared}
    return {**facts, "rows": sizes, "classes": task.classes(features)}


def _baselines(task: Task, splits: Splits, test: Examples, *, with_baseline: bool) -> dict[str, float]:
    """Test accuracy of the majority class and of TF-IDF with an SVM, on in-scope rows."""
    known = torch.nonzero(test.targets >= 0).flatten().tolist()
    if not known:
        return {}
    labels = {row_id: task.label(row) for row_id, row in enumerate(splits.train)}
    inside = [row_id for row_id, label in labels.items() if label is not None]
    names = sorted({str(labels[row_id]) for row_id in inside})
    train_targets = [names.index(str(labels[row_id])) for row_id in inside]
    test_targets = [names.index(str(task.label(splits.test[row]))) for row in known]
    train_texts = task.texts([splits.train[row_id] for row_id in inside])
    test_texts = task.texts([splits.test[row] for row in known])
    found = {"majority": round(majority(train_targets, test_targets), 6)}
    if with_baseline:
        found["tfidf_svm"] = round(tfidf_svm(train_texts, train_targets, test_texts, test_targets), 6)
    return found
