"""AUC on German credit, the ten given folds: a job's choice beside what a user would pick instead."""

import csv
import os
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any, cast

import lightgbm
import numpy
import optuna
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from tilth.contract.learning import Rung
from tilth.contract.messages import TrainingOptions
from tilth.contract.registry import vertical

from inference.engine.base_models import load_base
from inference.engine.data import Splits
from inference.engine.job import lesson_of
from inference.engine.keeping import Keeper
from inference.engine.ladder import Ladder
from inference.engine.reporting import Reporter
from inference.engine.task import load_task
from tests.bench.silent import NoCheckpoints, Silent

NAME = "german_credit"
DATA = Path(os.environ.get("TILTH_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")) / "german_credit"
LEAST = 0.005
T_95 = 2.262
"""Student's t, two-sided 95 %, nine degrees of freedom (12.706 with one)."""
Row = dict[str, Any]
Way = Callable[[list[Row], list[Row], int], numpy.ndarray[Any, Any]]


def run(*, full: bool) -> list[dict[str, str]]:
    """All ten folds and 30 trials of Optuna; in short two and 5."""
    if not (DATA / "german_credit.csv").exists():
        return [{"way": f"not run: {DATA} is not there (TILTH_DATA)"}]
    rows, folds = read()
    numbers, trials = (range(10), 30) if full else (range(2), 5)
    scores: dict[str, list[float]] = {name: [] for name in WAYS}
    for fold in numbers:
        train = [row for row, at in zip(rows, folds, strict=True) if at != fold]
        test = [row for row, at in zip(rows, folds, strict=True) if at == fold]
        truth = [row["default"] for row in test]
        for name, way in WAYS.items():
            scores[name].append(float(roc_auc_score(truth, way(train, test, trials))))
        print(f"  fold {fold}: " + ", ".join(f"{name} {found[-1]:.4f}" for name, found in scores.items()), flush=True)
    return [line(name, scores, T_95 if full else 12.706) for name in WAYS]


def line(name: str, scores: dict[str, list[float]], t: float) -> dict[str, str]:
    """Mean over the folds, and ours minus this, paired by fold, with its 95 % interval."""
    ours, found = next(iter(scores.values())), scores[name]
    gaps = [a - b for a, b in zip(ours, found, strict=True)]
    half = t * stdev(gaps) / len(gaps) ** 0.5
    apart = "" if found is ours else f"{mean(gaps):+.4f} [{mean(gaps) - half:+.4f}, {mean(gaps) + half:+.4f}]"
    goal = "" if found is ours else f"≥ -{LEAST}, not below 0 with certainty"
    return {"way": name, "AUC": f"{mean(found):.4f} ± {stdev(found):.4f}", "Tilth - this": apart, "goal": goal}


def read() -> tuple[list[Row], list[int]]:
    """Rows with numbers as numbers, and each row's fold."""
    with (DATA / "splits.csv").open(newline="") as file:
        folds = {row["row_id"]: int(row["fold10"]) for row in csv.DictReader(file)}
    with (DATA / "german_credit.csv").open(newline="") as file:
        raw = list(csv.DictReader(file))
    numbers = [name for name in raw[0] if all(row[name].replace(".", "", 1).isdigit() for row in raw)]
    rows = [{name: float(cell) if name in numbers else cell for name, cell in row.items()} for row in raw]
    for row in rows:
        row["default"] = int(row["default"])
    return rows, [folds[row["row_id"]] for row in raw]


def columns(rows: list[Row]) -> tuple[list[str], list[str]]:
    """(numbers, categories)."""
    names = [name for name in rows[0] if name not in ("row_id", "default")]
    numbers = [name for name in names if isinstance(rows[0][name], float)]
    return numbers, [name for name in names if name not in numbers]


def by_tilth(train: list[Row], test: list[Row], trials: int) -> numpy.ndarray[Any, Any]:
    """As a job does it that asks for no more than the cheap rung; every tenth row is validation."""
    face = vertical("credit_risk")
    task, numbers = load_task(face), columns(train)[0]
    told: list[Row] = [{"features": _cells(row), "default": str(row["default"])} for row in train]
    splits = Splits(
        [row for at, row in enumerate(told) if at % 10 != 9], told[9::10], [],
        {name: "number" if name in numbers else "category" for name in _cells(train[0])},
    )  # fmt: skip
    features = task.features(splits.train, splits.kinds)
    options = TrainingOptions(highest_rung=Rung.PROBE)
    lesson = lesson_of(task, features, splits, options)
    base = load_base(face.base_models[0])
    candidates = [each for each in task.candidates(lesson, features, [base], options) if each.rung is Rung.PROBE]
    reporter, keeper = cast("Reporter", Silent()), cast("Keeper", NoCheckpoints())
    climbed = Ladder(candidates, lesson, options, reporter, keeper).climb()
    outputs = climbed.outcome.model.outputs([{"features": _cells(row)} for row in test])
    found: numpy.ndarray[Any, Any] = (outputs[:, 1] - outputs[:, 0]).numpy()
    return found


def _cells(row: Row) -> Row:
    return {name: cell for name, cell in row.items() if name not in ("row_id", "default")}


def by_sklearn(model: Any) -> Way:
    """One-hot categories and standardised numbers before it."""

    def way(train: list[Row], test: list[Row], trials: int) -> numpy.ndarray[Any, Any]:
        numbers, categories = columns(train)
        names = [*numbers, *categories]
        ready = ColumnTransformer([
            ("numbers", StandardScaler(), list(range(len(numbers)))),
            ("categories", OneHotEncoder(handle_unknown="ignore"), list(range(len(numbers), len(names)))),
        ])  # fmt: skip
        tables = [numpy.array([[row[name] for name in names] for row in rows], dtype=object) for rows in (train, test)]
        fitted = make_pipeline(ready, model).fit(tables[0], [row["default"] for row in train])
        found: numpy.ndarray[Any, Any] = fitted.predict_proba(tables[1])[:, 1]
        return found

    return way


def by_optuna(train: list[Row], test: list[Row], trials: int) -> numpy.ndarray[Any, Any]:
    """LightGBM tuned by cross-validated AUC, then all training rows."""
    tables, target = _coded(train, test), [row["default"] for row in train]
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def tried(trial: Any) -> float:
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        return float(cross_val_score(_booster(trial), tables[0], target, scoring="roc_auc", cv=folds).mean())

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(tried, n_trials=trials)
    best: Any = _booster(study.best_trial).fit(tables[0], target)
    found: numpy.ndarray[Any, Any] = best.predict_proba(tables[1])[:, 1]
    return found


def _booster(trial: Any) -> lightgbm.LGBMClassifier:
    return lightgbm.LGBMClassifier(
        n_estimators=trial.suggest_int("n_estimators", 30, 500), num_leaves=trial.suggest_int("num_leaves", 3, 40),
        learning_rate=trial.suggest_float("learning_rate", 0.01, 0.2, log=True),
        min_child_samples=trial.suggest_int("min_child_samples", 5, 60),
        colsample_bytree=trial.suggest_float("colsample_bytree", 0.3, 1.0),
        subsample=trial.suggest_float("subsample", 0.5, 1.0), subsample_freq=1,
        reg_lambda=trial.suggest_float("reg_lambda", 1e-2, 30, log=True), random_state=0, n_jobs=1, verbosity=-1,
    )  # fmt: skip


def _coded(train: list[Row], test: list[Row]) -> list[numpy.ndarray[Any, Any]]:
    """Categories as whole numbers."""
    numbers, categories = columns(train)
    places = {name: {v: at for at, v in enumerate(sorted({row[name] for row in train}))} for name in categories}

    def coded(row: Row) -> list[float]:
        return [*(row[name] for name in numbers), *(places[name].get(row[name], -1) for name in categories)]

    return [numpy.array([coded(row) for row in rows]) for rows in (train, test)]


WAYS: dict[str, Way] = {
    "Tilth, a job's choice": by_tilth,
    "logistic regression": by_sklearn(LogisticRegression(max_iter=5000)),
    "random forest": by_sklearn(RandomForestClassifier(500, min_samples_leaf=3, random_state=0)),
    "LightGBM tuned by Optuna": by_optuna,
}
