"""The memory preflight: its formulas beside what autograd really saves, its choices, and a job that runs out anyway."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import duckdb
import pytest
import torch
from tilth.contract import registry
from tilth.contract.learning import Method
from tilth.contract.messages import EventKind, JobSpec, TrainingOptions
from tilth.contract.vertical import BaseModelOffer, FieldKind, Metric, Schema, SchemaField, Vertical

from inference.engine import base_models, limits, memory
from inference.engine.adapting.classifier import Classifier
from inference.engine.adapting.methods import METHODS
from inference.engine.adapting.recipe import Recipe
from inference.engine.adapting.steps import Run
from inference.engine.base_models import Base
from inference.engine.batches import Batch
from inference.engine.candidate import Candidate
from inference.engine.data import read_splits
from inference.engine.errors import JobFault
from inference.engine.heads import Head
from inference.engine.job import run_job
from inference.engine.memory import MIB, Encoder, Work, need, tfidf, trained_token
from inference.engine.objectives.single_label import SingleLabel
from inference.engine.precision import device
from inference.engine.preflight import Plan, plan
from inference.tasks.text import Text
from tests.inference.attempts import tiny_face

MINILM = Encoder(hidden=384, intermediate=1536, layers=6, heads=12, parameters=22_713_216)
TINY = Encoder(hidden=32, intermediate=64, layers=2, heads=2, parameters=0)
ABC = SingleLabel(("a", "b", "c"))
WORK = Work(
    encoder=MINILM, rows=(8000, 1000, 1000), longest=128, classes=77, rank=16,
    learns=6 * 16 * (8 * 384 + 2 * (384 + 1536)), batch=64, evaluated=64, half=True,
)  # fmt: skip


@pytest.fixture
def run(tiny: Base) -> Run:
    torch.manual_seed(0)
    head = Head(torch.randn(3, 32), torch.zeros(3))
    recipe = Recipe(rank=4, epochs=1, batch_size=8, rate=1.0, seed=0)
    return Run(Classifier(tiny, head, METHODS[Method.LORA], recipe), recipe, ABC, steps=10)


def batch(rows: int, tokens: int) -> Batch:
    made = torch.Generator().manual_seed(rows)
    ids = torch.randint(5, 25, (rows, tokens), generator=made)
    mask = (torch.arange(tokens) < torch.linspace(4, tokens, rows).long()[:, None]).long()
    return Batch(torch.arange(rows), ids * mask, mask, torch.arange(rows) % 3)


def saved(run: Run, rows: int, tokens: int) -> int:
    """Bytes that autograd keeps for a batch's way back, each storage once, weights left out."""
    kept: dict[int, int] = {}
    weights = {part.untyped_storage().data_ptr() for part in run.model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    run.model.eval()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = run.model(batch(rows, tokens)).sum()
    del loss
    return sum(size for place, size in kept.items() if place not in weights)


@pytest.mark.parametrize("half", [False, True])
def test_what_a_token_takes_is_what_autograd_saves_for_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, half: bool
) -> None:
    precision = (lambda: torch.autocast(device().type, dtype=torch.bfloat16)) if half else nullcontext
    monkeypatch.setattr("inference.engine.adapting.classifier.autocast", precision)
    masks = 8 * (32**2 - 16**2) * 4 * 2
    found = (saved(run, 8, 32) - saved(run, 8, 16) - masks) / (8 * 16)
    told = trained_token(TINY, 4, half=half)
    assert found <= 1.02 * told
    assert found >= 0.98 * told or device().type != "cpu"  # a GPU's attention keeps less in bf16


def test_a_batch_in_parts_takes_the_same_step(run: Run, tiny: Base) -> None:
    torch.manual_seed(0)
    other = Run(
        Classifier(tiny, Head(torch.randn(3, 32), torch.zeros(3)), METHODS[Method.LORA], run.recipe),
        run.recipe, ABC, steps=10, rows_at_once=3,
    )  # fmt: skip
    other.model.restore(run.model.learned())
    losses = [(run.step(batch(8, 16), at), other.step(batch(8, 16), at)) for at in range(3)]
    assert all(whole == pytest.approx(parts, rel=1e-2) for whole, parts in losses)
    apart = [
        (one - two).abs().max().item()
        for one, two in zip(run.model.learned().values(), other.model.learned().values(), strict=True)
    ]
    assert max(apart) < 5e-3


@dataclass(frozen=True)
class Shaped:
    """A candidate of so many rows at once, as far as the preflight looks at it."""

    rows_at_once: int | None = 64
    title: str = "LoRA"

    def size(self) -> str:
        return "9,000 rows"

    def need(self, tests: int) -> int:
        return need(replace(WORK, batch=self.rows_at_once or 1)).peak

    def smaller(self) -> "Shaped | None":
        return None if self.rows_at_once == 1 else Shaped((self.rows_at_once or 1) // 2)


def planned(available: int, baseline: int = 0) -> Plan:
    return plan([cast("Candidate", Shaped())], 1000, baseline, available)


def test_work_that_fits_is_left_as_it_is() -> None:
    baseline = tfidf(480_000, 77)
    found = planned(need(WORK).peak + baseline, baseline)
    assert ([each.rows_at_once for each in found.candidates], found.with_baseline) == ([64], True)
    assert found.predicted == need(WORK).peak + baseline


def test_too_large_a_batch_goes_in_parts_and_the_baseline_is_left_out_before_a_job_is_refused() -> None:
    smaller = planned(need(WORK).peak - 1)
    assert [each.rows_at_once for each in smaller.candidates] == [32]
    assert smaller.predicted < need(WORK).peak
    without = planned(need(replace(WORK, batch=1)).peak, tfidf(50_000_000, 2000))
    assert not without.with_baseline


def test_work_that_cannot_fit_is_refused_with_the_numbers() -> None:
    least = need(replace(WORK, batch=1)).peak
    with pytest.raises(JobFault, match=f"{least / MIB:,.0f} MB of memory.*; {(least - MIB) / MIB:,.0f} MB are there"):
        planned(least - MIB)


def test_two_trainers_share_what_one_may_have() -> None:
    assert limits.trainer_memory(2) == pytest.approx(limits.trainer_memory(1) / 2, abs=2)
    assert limits.trainer_memory(2, asked_mb=700) == 700 * MIB


def test_beyond_the_limit_an_allocation_fails_and_behind_it_all_is_as_before() -> None:
    with limits.capped(64 * MIB):
        kept = torch.ones(4 * MIB)
        with pytest.raises((MemoryError, RuntimeError)) as torch_says:
            torch.ones(128 * MIB)
        with pytest.raises(MemoryError) as python_says:
            bytearray(512 * MIB)
    assert limits.ran_out(torch_says.value)
    assert limits.ran_out(python_says.value)
    assert limits.ran_out(ImportError("/lib/ours.so: cannot map zero-fill pages"))
    assert not limits.ran_out(ImportError("No module named 'sklearn'"))
    assert not limits.ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert len(torch.ones(128 * MIB)) > len(kept)


@pytest.fixture
def attempt(place: Any, tiny: Base, tiny_offer: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., EventKind]:
    """One attempt on a few rows under a limit of memory."""
    face = Vertical(
        name="tiny", title="Tiny", description="For tests.",
        schema=Schema(fields=(SchemaField(role="text", kind=FieldKind.TEXT, title="Text"),
                              SchemaField(role="label", kind=FieldKind.LABEL, title="Label"))),
        metrics=(Metric(name="accuracy", title="Accuracy"),), base_models=(tiny_offer,),
        task="inference.tasks.text:Text",
    )  # fmt: skip
    monkeypatch.setattr(registry, "verticals", lambda: {"tiny": face})
    monkeypatch.setattr("inference.engine.objectives.single_label.error_upper_bound", lambda *_: 1.0)
    splits = ["train", "train", "validation", "test"]
    rows = [
        {"text": f"{word} please", "label": word, "split": splits[at % 4]}
        for at in range(24)
        for word in ("card", "refund")
    ]

    def run(beyond: int) -> EventKind:
        spec = JobSpec(
            job="j", attempt=1, flow="f", vertical="tiny", base_model="tiny", rows=place.dataset(rows),
            max_device_ms=600_000, output=place.grant("1/", "write"),
            options=TrainingOptions(epochs=1, batch_size=8, rank=4, minimum_gain=0.0),
        )  # fmt: skip
        return run_job(
            spec, storage=place.storage, stop=lambda: None, base=lambda _: tiny, heartbeat_s=5,
            memory=limits.resident() + beyond,
        )  # fmt: skip

    return run


def test_a_job_that_cannot_fit_is_refused_before_it_learns(
    attempt: Callable[..., EventKind], place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "KERNELS", 2048 * MIB)
    assert attempt(1024 * MIB) is EventKind.FAILED
    *_, failed, closed = place.events("1")
    assert failed.data["code"] == "memory"
    assert "MB are there" in failed.message
    assert closed.kind is EventKind.SPAN_CLOSED
    assert not any(event.kind is EventKind.METRICS for event in place.events("1"))


def test_a_job_that_runs_out_although_it_should_fit_fails_with_the_numbers(
    attempt: Callable[..., EventKind], place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(*_: object, **__: object) -> None:
        torch.ones(2 << 30)

    monkeypatch.setattr("inference.engine.probe.fit_probe", greedy)
    assert attempt(1024 * MIB) is EventKind.FAILED
    failed = place.events("1")[-2]
    assert failed.data["code"] == "out_of_memory"
    assert "MB beyond its base model" in failed.message
    monkeypatch.undo()
    assert len(torch.ones(2 << 20)) == 2 << 20


def test_a_step_that_runs_out_is_taken_again_with_half_the_rows(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run.step(batch(8, 16), 0)
    went: list[int] = []
    forward = Classifier.forward

    def short_of_memory(model: Classifier, part: Batch) -> torch.Tensor:
        went.append(len(part.rows))
        if len(part.rows) > 2:
            with limits.capped(MIB):
                torch.ones(1 << 30)
        return forward(model, part)

    monkeypatch.setattr(Classifier, "forward", short_of_memory)
    assert run.step(batch(8, 16), 1) == pytest.approx(whole, rel=0.2)
    assert went == [8, 4, 2, 2, 2, 2]
    assert run.rows_at_once == 2


def test_memory_that_is_short_for_a_single_row_is_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> torch.Tensor:
        with limits.capped(MIB):
            return torch.ones(1 << 30)

    monkeypatch.setattr(Classifier, "forward", never)
    with pytest.raises((MemoryError, RuntimeError)) as said:
        run.step(batch(8, 16), 0)
    assert limits.ran_out(said.value)


@pytest.mark.slow
def test_rows_that_do_not_fit_into_memory_are_told_as_such(tmp_path: Path) -> None:
    rows = tmp_path / "rows.parquet"
    duckdb.execute(
        f"COPY (SELECT 'train' AS split, i AS line, repeat('word ', 2000) AS text FROM range(20_000) t(i)) TO '{rows}'"
    )
    with limits.capped(16 * MIB), pytest.raises(MemoryError):
        read_splits(rows)
    assert len(read_splits(rows).train) == 20_000


def test_long_texts_are_tokenised_a_few_at_a_time_to_the_same_tokens(
    tiny: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["card lost " * times for times in (1, 40, 0, 3, 90, 2, 2)]
    whole, pairs = tiny.encode(texts, 16), tiny.encode(texts, 16, texts[::-1])
    held: list[int] = []

    class Counted:
        model_max_length = 64

        def __call__(self, some: list[str], *others: Any, **options: Any) -> Any:
            held.append(sum(map(len, some)))
            return tiny.tokenizer(some, *others, **options)

    monkeypatch.setattr(base_models, "READ", 100)
    parted = replace(tiny, tokenizer=Counted())
    assert parted.encode(texts, 16) == whole
    assert held == [10, 400, 30, 900, 40]
    assert parted.encode(texts, 16, texts[::-1]) == pairs
    assert parted.encode([], 16) == []


def test_a_text_is_cut_to_what_its_base_reads(tiny: Base, tiny_offer: BaseModelOffer) -> None:
    task = Text(tiny_face(tiny_offer))
    assert tiny.longest == 64
    for most, cut in ((128, 64), (16, 16)):
        assert len(task.encode([{"text": "card " * 200}], {"max_length": most}, tiny)[0]) == cut
