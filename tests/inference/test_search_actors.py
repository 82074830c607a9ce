"""A search by Ray actors: a killed one is done without, and none outlives the process that asked for it."""

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psutil
import pytest
import ray
import torch
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tilth.contract.learning import Method
from tilth.contract.messages import EventKind, JobSpec, Row, TrainingOptions
from tilth.contract.registry import vertical

from inference.actors.searching import hire
from inference.actors.trainer import new_trainer
from inference.engine.adapting.recipe import Recipe
from inference.engine.base_models import load_base
from inference.engine.candidate import Lesson
from inference.engine.encoder import TextEncoder
from inference.engine.heads import Head
from inference.engine.objectives.single_label import SingleLabel
from inference.engine.precision import has_fast_bf16
from inference.engine.search.crew import Crew
from inference.engine.search.ground import Ground
from inference.engine.search.leg import Leg
from inference.engine.search.space import Space
from inference.engine.search.team import Team
from inference.settings import Settings, settings
from tests.inference.attempts import rows as texts

pytestmark = [pytest.mark.ray, pytest.mark.slow]
FACE = "support_chat"
OPTIONS = TrainingOptions(method=Method.LORA)
TOLERANCE = 0.05 if has_fast_bf16() else 1e-5
"""Of outputs: in bf16 another number of threads changes sums."""
AROUND = Recipe(rank=4, epochs=1, batch_size=4, rate=1.0, seed=3)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@pytest.fixture
def configured(cluster: None) -> Settings:
    return settings({"TILTH_SEARCH_WORKERS": "2", "TILTH_THREADS": "2"})


def ground() -> Ground:
    """Eight short texts on the base that support chat offers."""
    base = load_base(vertical(FACE).base_models[0])
    rows: list[Row] = [{"text": f"message number {at}"} for at in range(12)]
    targets = torch.arange(12) % 2
    lesson = Lesson(rows[:8], rows[8:], targets[:8], targets[8:], SingleLabel(("a", "b")))
    encoder = TextEncoder(base, lesson, lambda some: base.encode([str(row["text"]) for row in some], 16), OPTIONS)
    torch.manual_seed(0)
    head = Head(torch.randn(2, base.hidden_size), torch.zeros(2))
    return Ground(Space.of(OPTIONS, AROUND, [base.id]), (encoder,), (head,))


def legs(found: Ground) -> list[Leg]:
    """Three trials, each alone, on their way to the end."""
    trials = [found.begun(number, {"rate": 1.0 + number}) for number in range(3)]
    return [Leg(Team([trial], 8), {trial.number: trial.run.steps}) for trial in trials]


def walked(crew: Crew, some: list[Leg]) -> dict[int, Any]:
    return {
        number: found for _, each in crew.walk(some, lambda _: None, lambda: None) for number, found in each.items()
    }


def test_legs_of_actors_end_where_those_of_one_process_do_though_one_is_killed(configured: Settings) -> None:
    found = ground()
    with hire(configured, FACE)(found.packed()) as crew:
        some = legs(found)
        outputs = walked(crew, some)
        ray.kill(crew.hands[0].actor)
        again = walked(crew, legs(found))
        assert len(crew.hands) == 1
    own = legs(found)
    for number, leg in enumerate(own):
        expected = leg.walk(lambda _: None, lambda: None)[number]
        torch.testing.assert_close(outputs[number], expected, rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(again[number], expected, rtol=0, atol=TOLERANCE)
        assert some[number].team.trials[0].step == leg.team.trials[0].step == leg.team.trials[0].run.steps


def test_a_trainer_searches_by_workers_and_pauses_and_goes_on(place: Any, configured: Settings) -> None:
    verify = place.root / "verify.pem"
    verify.write_bytes(place.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    told = replace(configured, verify_key=verify)

    def begun(attempt: int, trainer: Any, resume: str = "") -> Any:
        spec = JobSpec(
            job="j", attempt=attempt, flow="f", vertical=FACE, base_model="minilm-l6", max_device_ms=600_000,
            rows=place.dataset(texts(12)), output=place.grant(f"{attempt}/", "write"),
            resume=place.grant(resume) if resume else None,
            options=TrainingOptions(trials=3, epochs=1, batch_size=8, minimum_gain=0.0),
        )  # fmt: skip
        return trainer.run.remote(spec)

    trainer = new_trainer(told)
    running = begun(1, trainer)
    while not any(str(event.data.get("rung")).startswith("trial") for event in place.events("1")):
        time.sleep(0.1)
    ray.get(trainer.stop.remote("pause"))
    assert ray.get(running) == EventKind.PAUSED
    ray.kill(trainer)
    [*_, kept] = [event.data["path"] for event in place.events("1") if event.kind is EventKind.CHECKPOINT]
    assert ray.get(begun(2, new_trainer(told), f"1/{kept}")) == EventKind.SUCCEEDED
    [done] = [event.data["report"] for event in place.events("2") if event.kind is EventKind.SUCCEEDED]
    [board] = [line["trials"] for line in done["leaderboard"] if line["name"] == "search"]
    assert sorted(line["trial"] for line in board) == [0, 1, 2]


class Asking:
    """A trainer, as far as its workers see."""

    def __init__(self, configured: Settings) -> None:
        self._held = hire(configured, FACE)(ground().packed())
        self._crew = self._held.__enter__()

    def pids(self) -> list[int]:
        """Of its workers, once they have their base model."""
        return [ray.get(hand.actor.__ray_call__.remote(pid)) for hand in self._crew.hands]


def pid(_: Any) -> int:
    """Of the process in which this runs."""
    return os.getpid()


def test_no_worker_outlives_a_killed_trainer(configured: Settings) -> None:
    trainer: Any = ray.remote(Asking).options(num_cpus=0).remote(configured)
    pids = ray.get(trainer.pids.remote())
    assert all(map(psutil.pid_exists, pids))
    ray.kill(trainer)
    ends = time.monotonic() + 30
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < ends:
        time.sleep(0.1)
    assert not any(map(psutil.pid_exists, pids))
