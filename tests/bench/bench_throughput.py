"""Training rows/s on ragged text beside transformers' Trainer with peft: the same base, LoRA, rows and batch size."""

import math
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, cast

import torch
from peft import LoraConfig, get_peft_model
from tilth.contract.learning import Method
from tilth.contract.messages import TrainingOptions
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from inference.engine import limits
from inference.engine.adapting.classifier import Classifier
from inference.engine.adapting.methods import METHODS
from inference.engine.adapting.recipe import Recipe
from inference.engine.adapting.steps import Run
from inference.engine.batches import batch_of, epoch_order
from inference.engine.heads import Head, linear_names
from inference.engine.objectives.single_label import SingleLabel
from inference.engine.precision import has_fast_bf16
from inference.engine.task import Examples
from tests.bench.adapter_rig import minilm

NAME = "throughput"
BATCH, CLASSES, LONGEST = 32, 10, 128
WARM = 5
"""Steps that are not counted."""


def run(*, full: bool) -> list[dict[str, str]]:
    """Each way by turns in a process of its own, as its user starts it."""
    ways: dict[str, tuple[Callable[[int], float], str]] = {
        "Tilth": (ours, ""),
        "HF Trainer + peft, defaults": (by_defaults, "≥ 2.5"),
        "HF Trainer + peft, bf16 and rows grouped by length": (tuned, "≥ 1.1"),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(3 if full else 1):
        for name, (way, _goal) in ways.items():
            rates[name].append(alone(way, 30 if full else 10))
    mine = rates["Tilth"]
    return [
        {"way": name, "rows/s": f"{statistics.median(each):,.0f}", "goal": ways[name][1],
         "Tilth ÷ this": f"{statistics.median(a / b for a, b in zip(mine, each, strict=True)):.2f}"}
        for name, each in rates.items()
    ]  # fmt: skip


def alone(way: Callable[[int], float], steps: int) -> float:
    """Rows/s of a way in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(way, steps).result()


def ragged(steps: int) -> Examples:
    """Random tokens; lengths are log-normal with a median of 24, as of support mails, at most LONGEST."""
    torch.manual_seed(0)
    lengths = (torch.randn(BATCH * steps) * 0.7 + math.log(24)).exp().long().clamp(4, LONGEST)
    ids = [torch.randint(1000, 20_000, (length,)).tolist() for length in lengths.tolist()]
    return Examples(ids, torch.randint(0, CLASSES, (len(ids),)))


def ours(steps: int) -> float:
    """A trainer's own steps."""
    torch.set_num_threads(os.cpu_count() or 1)
    limits.keep_freed()
    base, examples = minilm(), ragged(WARM + steps)
    options = TrainingOptions(batch_size=BATCH, epochs=1, consistency=0)  # the others see each row once, too
    recipe = Recipe.settled(options, len(examples))
    head = Head(torch.zeros(CLASSES, base.hidden_size), torch.zeros(CLASSES))
    model = Classifier(base, head, METHODS[Method.LORA], recipe)
    learning = Run(model, recipe, SingleLabel(tuple(f"{at}" for at in range(CLASSES))), steps=WARM + steps)
    rows = begun = 0.0
    for step, batch in enumerate(epoch_order(examples, BATCH, seed=0, epoch=0)):
        if step == WARM:
            rows, begun = 0.0, time.perf_counter()
        learning.step(batch_of(examples, batch), step)
        rows += len(batch)
    return rows / (time.perf_counter() - begun)


def by_defaults(steps: int) -> float:
    """What one gets by leaving the arguments as they are."""
    return by_trainer(steps)


def tuned(steps: int) -> float:
    """What one finds in its documentation."""
    return by_trainer(steps, bf16=has_fast_bf16(), train_sampling_strategy="group_by_length")


def by_trainer(steps: int, **chosen: Any) -> float:
    """Rows/s after the first steps."""
    torch.set_num_threads(os.cpu_count() or 1)
    base, examples = minilm(), ragged(WARM + steps)
    model = AutoModelForSequenceClassification.from_pretrained(base.tokenizer.name_or_path, num_labels=CLASSES)
    config = LoraConfig(
        task_type="SEQ_CLS", r=16, lora_alpha=32, target_modules=linear_names(cast("Any", model).bert)
    )  # fmt: skip
    clock = Clock()
    rows: Any = [
        {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": target}
        for ids, target in zip(examples.ids, examples.targets.tolist(), strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=1, per_device_train_batch_size=BATCH, save_strategy="no", report_to=[],
            disable_tqdm=True, use_cpu=True, logging_strategy="no", **chosen,
        )  # fmt: skip
        Trainer(
            get_peft_model(model, config), arguments, train_dataset=rows,
            data_collator=DataCollatorWithPadding(base.tokenizer), callbacks=[clock],
        ).train()  # fmt: skip
    return BATCH * steps / clock.seconds


class Clock(TrainerCallback):
    """Seconds from the end of the last warm step to that of the last."""

    def __init__(self) -> None:
        self._begun = 0.0
        self.seconds = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == WARM:
            self._begun = time.perf_counter()
        self.seconds = time.perf_counter() - self._begun
