"""Attempts at a job on the tiny base, as a trainer would run them."""

from collections.abc import Callable
from typing import Any

import pytest
from tilth.contract.messages import EventKind, JobSpec, TrainingOptions
from tilth.contract.vertical import BaseModelOffer, FieldKind, Metric, Schema, SchemaField, Vertical

from inference.engine.base_models import Base
from inference.engine.job import run_job
from inference.engine.search.leg import Hire

LABELS = {"card": "lost stolen card", "refund": "money refund back", "parcel": "parcel late where"}


def tiny_face(offer: BaseModelOffer) -> Vertical:
    """A vertical of texts and labels on the tiny base."""
    return Vertical(
        name="tiny", title="Tiny", description="For tests.",
        schema=Schema(fields=(SchemaField(role="text", kind=FieldKind.TEXT, title="Text"),
                              SchemaField(role="label", kind=FieldKind.LABEL, title="Label")),
                      out_of_scope_labels=("oos",)),
        metrics=(Metric(name="accuracy", title="Accuracy"),), base_models=(offer,),
        task="inference.tasks.text:Text",
    )  # fmt: skip


def rows(count: int = 60) -> list[dict[str, str]]:
    filler = ["please", "help", "me", "my", "the", "is"]
    splits = ["train", "train", "train", "validation", "test"]
    made = [
        {"text": f"{words} {filler[at % 6]} {filler[(at // 6) % 6]}", "label": label, "split": splits[at % 5]}
        for at in range(count)
        for label, words in LABELS.items()
    ]
    outside = [{"text": f"order pay {filler[at % 6]}", "label": "oos", "split": splits[at % 5]} for at in range(20)]
    return made + outside


class Attempts:
    """Runs attempts of one job in one place."""

    def __init__(self, place: Any, base: Base, *others: Base) -> None:
        self.place = place
        self.base = base
        self.bases = {each.id: each for each in (base, *others)}

    def run(
        self,
        attempt: int = 1,
        *,
        data: list[dict[str, str]] | None = None,
        stop: Callable[[], Any] = lambda: None,
        resume: str | None = None,
        max_device_ms: int = 600_000,
        hire: Hire | None = None,
        **options: Any,
    ) -> EventKind:
        spec = JobSpec(
            job="j", attempt=attempt, flow="f", vertical="tiny", base_model="tiny",
            rows=self.place.dataset(rows() if data is None else data), max_device_ms=max_device_ms,
            output=self.place.grant(f"{attempt}/", "write"),
            resume=self.place.grant(resume) if resume else None,
            options=TrainingOptions(**{"epochs": 2, "batch_size": 16, "rank": 4, "minimum_gain": 0.0, **options}),
        )  # fmt: skip
        return run_job(
            spec, storage=self.place.storage, stop=stop, base=self.bases.__getitem__, heartbeat_s=5, hire=hire
        )  # fmt: skip

    def kinds(self, attempt: int = 1) -> list[EventKind]:
        return [event.kind for event in self.place.events(str(attempt))]

    def last(self, kind: EventKind, attempt: int = 1) -> dict[str, Any]:
        return dict([event for event in self.place.events(str(attempt)) if event.kind is kind][-1].data)

    def folder(self, attempt: int = 1) -> dict[str, bytes]:
        return dict(self.place.folder(f"{attempt}/model/"))


def options_that_always_climb(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny data are learned by the probe already; LoRA is kept here so that its files can be looked at."""
    monkeypatch.setattr("inference.engine.outcome.LEAST_GAIN", -1.0)
    monkeypatch.setattr("inference.engine.outcome.SURE", 0)
    monkeypatch.setattr("inference.engine.objectives.single_label.error_upper_bound", lambda *_: 1.0)
