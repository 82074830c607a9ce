"""Time until the checkpoint that validation chose is right on 92.5 % of banking77's test rows; in short on 90 %."""

import contextlib
import copy
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from peft import LoraConfig, get_peft_model
from tilth.contract.learning import Method
from tilth.contract.messages import TrainingOptions
from tilth.contract.registry import vertical
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from inference.engine import limits
from inference.engine.adapting.classifier import Classifier, evaluate_logits
from inference.engine.adapting.methods import METHODS
from inference.engine.adapting.recipe import Recipe
from inference.engine.base_models import Base, load_base
from inference.engine.candidate import Lesson, Outcome
from inference.engine.encoder import TextEncoder
from inference.engine.evaluate import accuracy
from inference.engine.heads import Head, linear_names
from inference.engine.keeping import Keeper
from inference.engine.ladder import Ladder
from inference.engine.objectives.single_label import SingleLabel
from inference.engine.precision import has_fast_bf16
from inference.engine.probe import ProbeModel, frozen_features
from inference.engine.reporting import Reporter
from inference.engine.task import Examples
from inference.tasks.text import encoder_path
from tests.bench import banking
from tests.bench.silent import Silent

NAME = "training"
GOAL, SHORT = 0.925, 0.9
"""Of the test rows; the second is there before anything but the probe has learned."""
EPOCHS = 15
RATES = (5e-4, 1e-3, 2e-3)


@dataclass(frozen=True)
class Data:
    """banking77 as both sides read it: one validation tenth, cut once."""

    train: Examples
    validation: Examples
    test: Examples
    classes: int

    def lesson(self) -> Lesson:
        """Rows are token ids already."""
        rows = [[{"ids": ids} for ids in part.ids] for part in (self.train, self.validation)]
        objective = SingleLabel(tuple(f"{label:02d}" for label in range(self.classes)))
        return Lesson(
            cast("Any", rows[0]), cast("Any", rows[1]), self.train.targets, self.validation.targets, objective
        )


@dataclass
class Watch:
    """Seconds of work until a goal, stopped while a test set is looked at."""

    goal: float
    begun: float = field(default_factory=time.monotonic)
    idle: float = 0.0

    def seconds(self) -> float:
        return time.monotonic() - self.begun - self.idle


def run(*, full: bool) -> list[dict[str, str]]:
    """Ours, then the other way at three learning rates, each until the goal or 2.5 times ours (in short: one, 90 s)."""
    goal = GOAL if full else SHORT
    if absent := banking.missing():
        return absent
    torch.set_num_threads(os.cpu_count() or 1)
    limits.keep_freed()
    base = load_base(vertical("support_chat").base_models[0])
    data = read(base)
    ours, found = by_the_ladder(base, data, goal)
    rates, cap = (RATES, max(240.0, 2.5 * ours)) if full else (RATES[1:2], 90.0)
    lines = [told(shown("Tilth's ladder", ours, found, ours, goal))]
    for rate in rates:
        lines.append(
            told(shown(f"HF Trainer + peft, lr {rate:g}", *by_trainer(base, data, rate, cap, goal), ours, goal))
        )
    return lines


def told(line: dict[str, str]) -> dict[str, str]:
    """Printed at once: the whole takes long."""
    print("  " + ", ".join(line.values()), flush=True)
    return line


def read(base: Base) -> Data:
    """Rows, encoded once."""
    train, names = _pairs("train"), sorted({label for _, label in _pairs("train")})
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).tolist()

    def encoded(rows: list[tuple[str, str]]) -> Examples:
        targets = torch.tensor([names.index(label) for _, label in rows])
        return Examples(base.encode([text for text, _ in rows], 128), targets)

    cut = len(train) // 10
    valid, rest = [train[row] for row in order[:cut]], [train[row] for row in order[cut:]]
    return Data(encoded(rest), encoded(valid), encoded(_pairs("test")), len(names))


def _pairs(part: str) -> list[tuple[str, str]]:
    return [(str(row["text"]), str(row["label"])) for row in banking.rows(part)]


class Reached(Exception):
    """The chosen checkpoint is good enough, or the time is up."""


class Watching:
    """In the keeper's place: looks at each checkpoint's test accuracy while the watch stands still."""

    step = 0

    def __init__(self, base: Base, data: Data, watch: Watch) -> None:
        self._base, self._data, self._watch = base, data, watch
        self.best = (-1.0, 0.0)

    def running(self, candidate: str) -> None:
        """Nothing was kept before."""

    def reopened(self, candidate: Any) -> None:
        """Nothing was kept before."""

    def keep_done(self, done: Mapping[str, Outcome]) -> None:
        if set(done) == {"probe"}:
            valid = accuracy(done["probe"].valid.argmax(1), self._data.validation.targets)
            head = cast("ProbeModel", done["probe"].model).head
            features = self._pausing(lambda: frozen_features(self._base, self._data.test, lambda _: None))
            self._judge(valid, head.logits(features))

    def keep_running(self, at: Any, tensors: dict[str, Tensor], metrics: dict[str, float]) -> None:
        if metrics:
            self._judge(metrics["valid_accuracy"], self._pausing(lambda: self._logits(tensors)))

    def _logits(self, tensors: dict[str, Tensor]) -> Tensor:
        recipe = Recipe.settled(TrainingOptions(), len(self._data.train))
        head = Head(tensors["head.weight"], tensors["head.bias"])
        model = Classifier(self._base, head, METHODS[Method.LORA], recipe)
        model.restore(tensors)
        return evaluate_logits(model, self._data.test)

    def _judge(self, valid: float, logits: Tensor) -> None:
        self.best = max(self.best, (valid, accuracy(logits.argmax(1), self._data.test.targets)))
        if self.best[1] >= self._watch.goal:
            raise Reached

    def _pausing(self, look: Any) -> Any:
        begun = time.monotonic()
        found = look()
        self._watch.idle += time.monotonic() - begun
        return found


def by_the_ladder(base: Base, data: Data, goal: float) -> tuple[float, float]:
    """Seconds until the goal, or for the whole climb; and the chosen checkpoint's test accuracy."""
    watch = Watch(goal)
    keeper = Watching(base, data, watch)
    options = TrainingOptions(seed=0, minimum_gain=0.0)
    lesson = data.lesson()
    path = encoder_path([TextEncoder(base, lesson, lambda rows: [cast("Any", row["ids"]) for row in rows], options)])
    try:
        Ladder(path, lesson, options, cast("Reporter", Silent()), cast("Keeper", keeper)).climb()
    except Reached:
        return watch.seconds(), keeper.best[1]
    return -watch.seconds(), keeper.best[1]


def by_trainer(base: Base, data: Data, rate: float, cap: float, goal: float) -> tuple[float, float]:
    """The same with transformers' Trainer; negative seconds: not reached within them."""
    model = AutoModelForSequenceClassification.from_pretrained(base.tokenizer.name_or_path, num_labels=data.classes)
    config = LoraConfig(
        task_type="SEQ_CLS", r=16, lora_alpha=32, target_modules=linear_names(cast("Any", model).bert),
        modules_to_save=["classifier", "pooler"],
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=EPOCHS, per_device_train_batch_size=32, per_device_eval_batch_size=64,
            learning_rate=rate, lr_scheduler_type="cosine", warmup_steps=0.06, eval_strategy="epoch",
            save_strategy="no", report_to=[], disable_tqdm=True, bf16=has_fast_bf16(), use_cpu=True, seed=0,
            train_sampling_strategy="group_by_length", logging_strategy="no",
        )  # fmt: skip
        trainer = Trainer(
            get_peft_model(copy.deepcopy(model), config), arguments, train_dataset=as_rows(data.train),
            eval_dataset=as_rows(data.validation), data_collator=DataCollatorWithPadding(base.tokenizer),
            compute_metrics=lambda found: {"accuracy": float((found[0].argmax(1) == found[1]).mean())},
        )  # fmt: skip
        watching = TrainerWatching(trainer, data, cap, goal)
        trainer.add_callback(watching)
        with contextlib.suppress(Reached):
            trainer.train()
    seconds = watching.watch.seconds()
    return (seconds if watching.best[1] >= goal else -seconds), watching.best[1]


class TrainerWatching(TrainerCallback):
    """Looks at the test accuracy of the best epoch so far; stops at the goal or the cap."""

    def __init__(self, trainer: Trainer, data: Data, cap: float, goal: float) -> None:
        self._trainer, self._test, self._cap = trainer, as_rows(data.test), cap
        self._looking = False
        self.watch = Watch(goal)
        self.best = (-1.0, 0.0)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        if self._looking:
            return
        begun, self._looking = time.monotonic(), True
        found = self._trainer.predict(cast("Any", self._test)).metrics or {}
        self.watch.idle += time.monotonic() - begun
        self._looking = False
        self.best = max(self.best, (metrics["eval_accuracy"], found["test_accuracy"]))
        if self.best[1] >= self.watch.goal:
            raise Reached

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.watch.seconds() > self._cap:
            raise Reached


def as_rows(examples: Examples) -> Any:
    """What Trainer reads: token ids and labels, row by row."""
    return [
        {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": target}
        for ids, target in zip(examples.ids, examples.targets.tolist(), strict=True)
    ]


def shown(way: str, seconds: float, found: float, ours: float, goal: float) -> dict[str, str]:
    """One line; a time with > was not enough."""
    told = f"{abs(seconds):,.0f}" if seconds > 0 else f"> {-seconds:,.0f}"
    ratio = "" if seconds == ours else f"{'' if seconds > 0 else '< '}{ours / abs(seconds):.2f}"
    return {
        "way": way, f"seconds to {100 * goal:g} %": told, "test accuracy then": f"{100 * found:.2f} %",
        "Tilth : this": ratio, "goal": "≤ 0.5" if ratio else "",
    }  # fmt: skip
