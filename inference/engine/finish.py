"""After the climb: calibrate, judge once on the test split, and pack the model's folder with its card."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from tilth.contract.messages import JobSpec
from torch import Tensor

from inference.adapters.folder import CARD, FEATURES
from inference.engine.baselines import constant
from inference.engine.candidate import Lesson, Model
from inference.engine.card import card
from inference.engine.data import Splits
from inference.engine.doubts import advice, suspects
from inference.engine.evaluate import interval
from inference.engine.ladder import Climbed
from inference.engine.limits import ran_out
from inference.engine.objectives.objective import Judged
from inference.engine.spill import picked
from inference.engine.task import Compares, Features, Task


@dataclass(frozen=True)
class Finished:
    """Files of the model's folder, the metrics that are shown, and the whole report."""

    files: dict[str, bytes]
    metrics: dict[str, float]
    report: dict[str, Any]


def finish(
    spec: JobSpec,
    task: Task,
    features: Features,
    lesson: Lesson,
    splits: Splits,
    climbed: Climbed,
    *,
    with_baseline: bool = True,
) -> Finished:
    """Touches the test split once; without a plain way beside it where memory would not do."""
    outcome, objective = climbed.outcome, lesson.objective
    targets = task.targets(splits.test, features)
    settled: Features = {**features, **objective.calibrate(outcome.valid, lesson.validation_targets)}
    outputs = outcome.model.outputs(splits.test) if splits.test else Tensor(0, objective.width)
    judged = objective.judge(outputs, targets, settled)
    report = {
        "rung": outcome.name, "base_model": base_of(outcome.model, spec), "why": climbed.reason,
        "comparison": asdict(climbed.comparison) if climbed.comparison else None,
        "rows": {"train": len(splits.train), "validation": len(splits.validation), "test": len(splits.test)},
        "classes": objective.width, "selects": objective.selects, "leaderboard": climbed.board,
        "baselines": _baselines(task, lesson, splits, targets, with_baseline=with_baseline),
        "metrics": judged.metrics, "interval": _interval(lesson, outputs, targets, judged), **judged.details,
    }  # fmt: skip
    report |= _doubts(lesson, climbed)
    files = dict(outcome.model.files())
    files |= {
        FEATURES: _json({**settled, "candidate": outcome.model.kind}),
        CARD: card(spec, report, objective.note).encode(),
    }
    return Finished(files, judged.metrics, report)


def base_of(model: Model, spec: JobSpec) -> str:
    """The base model under which it is served: the job's own where it needs none."""
    return model.base.id if model.base else spec.base_model


def _doubts(lesson: Lesson, climbed: Climbed) -> dict[str, Any]:
    """What cross-fitting tells of the rows."""
    found = climbed.crossed()
    crossed = found.crossed if found else None
    curve = next((each.facts["curve"] for each in climbed.done.values() if "curve" in each.facts), None)
    return {
        "suspects": None if crossed is None else suspects(crossed, lesson),
        "more_rows": advice(curve) if curve else None,
    }


def _interval(lesson: Lesson, outputs: Tensor, targets: Tensor, judged: Judged) -> list[float]:
    """Of the metric that chooses, as it was judged on the known rows of test."""
    objective = lesson.objective
    known = objective.known(targets)
    if not known.any():
        return []
    found, wanted = outputs[known] if judged.decided is None else judged.decided, targets[known]
    return [round(end, 6) for end in interval(lambda draws: objective.resampled(found, wanted, draws), len(wanted))]


def _baselines(task: Task, lesson: Lesson, splits: Splits, targets: Tensor, *, with_baseline: bool) -> dict[str, float]:
    """Scores, on the known rows of test, of a constant answer and, if memory does, of the task's plain way."""
    known = lesson.objective.known(targets)
    if not known.any():
        return {}
    found = {"majority": constant(lesson, targets[known])}
    if with_baseline and isinstance(task, Compares):
        rows = picked(splits.test, known)
        try:
            found |= task.baseline(lesson, rows, targets[known])
        except (MemoryError, RuntimeError, ImportError) as error:  # there is a model: it needs no company
            if not ran_out(error):
                raise
    return {name: round(value, 6) for name, value in found.items()}


def _json(facts: Features) -> bytes:
    return json.dumps(facts, indent=1, sort_keys=True).encode()
