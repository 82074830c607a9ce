"""A search by workers beside the trainer: the same as without, whatever dies, and paused between two steps."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
import torch
from safetensors.torch import load
from tilth.contract import registry
from tilth.contract.messages import EventKind
from tilth.contract.vertical import BaseModelOffer

from inference.engine.base_models import Base
from inference.engine.search.crew import Crew
from inference.engine.search.ground import Packed
from inference.engine.search.leg import Stepped
from inference.engine.search.worker import Order, Walked, Worker
from tests.inference.attempts import Attempts, options_that_always_climb, tiny_face

SEARCH: dict[str, Any] = {"trials": 9, "rank": None, "epochs": 2, "base_models": ("wide",)}


M = TypeVar("M")


class Died(Exception):
    """What is raised for a worker that is lost."""


def crossed(message: M) -> M:
    """As it arrives in another process."""
    return pickle.loads(pickle.dumps(message))  # type: ignore[no-any-return]  # noqa: S301


@dataclass
class Threaded:
    """A worker in a thread of this process, reached by pickled messages as one elsewhere is."""

    worker: Worker
    dies_at: int = 0
    """The number of its walk in which it dies, after the steps; 0: never."""
    walks: int = 0
    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(3))

    def walk(self, order: Order) -> "Future[Walked]":
        return self._threads.submit(self._walk, crossed(order))

    def steps(self, number: int, after: int) -> "Future[Sequence[Stepped]]":
        return self._threads.submit(self.worker.steps, number, after)

    def stop(self) -> None:
        self.worker.stop()

    def close(self) -> None:
        self._threads.shutdown()

    def _walk(self, order: Order) -> Walked:
        self.walks += 1
        walked = self.worker.walk(order)
        if self.walks == self.dies_at:
            raise Died
        return crossed(walked)


@pytest.fixture(autouse=True)
def _tiny_vertical(monkeypatch: pytest.MonkeyPatch, tiny_offer: BaseModelOffer) -> None:
    monkeypatch.setattr(registry, "verticals", lambda: {"tiny": tiny_face(tiny_offer)})
    monkeypatch.setattr("inference.engine.precision.has_fast_bf16", lambda: False)
    options_that_always_climb(monkeypatch)


@pytest.fixture
def attempts(place: Any, tiny: Base, wide: Base) -> Attempts:
    return Attempts(place, tiny, wide)


@dataclass
class Hired:
    """Workers that are hired for each search; ``dies_at`` for each of them."""

    bases: dict[str, Base]
    dies_at: tuple[int, ...]
    hands: list[Threaded] = field(default_factory=list)

    @contextmanager
    def __call__(self, packed: Packed) -> Iterator[Crew]:
        grounds = [crossed(packed).opened(self.bases.__getitem__) for _ in self.dies_at]
        self.hands = [Threaded(Worker(ground), at) for ground, at in zip(grounds, self.dies_at, strict=True)]
        try:
            yield Crew(list(self.hands), Died)
        finally:
            for hand in self.hands:
                hand.close()


def hired(attempts: Attempts, *dies_at: int) -> Hired:
    return Hired(attempts.bases, dies_at)


def board(attempts: Attempts, attempt: int) -> list[dict[str, Any]]:
    lines = attempts.last(EventKind.SUCCEEDED, attempt)["report"]["leaderboard"]
    return next(line["trials"] for line in lines if line["name"] == "search")


def assert_alike(attempts: Attempts, one: int, other: int) -> None:
    """The same trials in the same order with the same numbers, and the same model."""
    for mine, theirs in zip(board(attempts, one), board(attempts, other), strict=True):
        for name in mine.keys() - {"device_ms"}:
            assert mine[name] == pytest.approx(theirs[name], abs=1e-5), name
    torch.testing.assert_close(weights(attempts, one), weights(attempts, other), rtol=0, atol=1e-5)


def weights(attempts: Attempts, attempt: int) -> dict[str, torch.Tensor]:
    files = {name: load(found) for name, found in attempts.folder(attempt).items() if name.endswith(".safetensors")}
    return {f"{file}.{name}": tensor for file, tensors in files.items() for name, tensor in tensors.items()}


@pytest.mark.slow
def test_a_search_by_workers_ends_as_one_without(attempts: Attempts) -> None:
    assert attempts.run(1, **SEARCH) is EventKind.SUCCEEDED
    workers = hired(attempts, 0, 0)
    assert attempts.run(2, hire=workers, **SEARCH) is EventKind.SUCCEEDED
    assert_alike(attempts, 1, 2)
    assert all(hand.walks for hand in workers.hands)
    told = [attempts.last(EventKind.SUCCEEDED, at)["trained_tokens"] for at in (1, 2)]
    assert told[0] == told[1]
    assert all(line["device_ms"] > 0 for line in board(attempts, 2))


@pytest.mark.slow
@pytest.mark.parametrize("dies_at", [(2, 0), (1, 3)])
def test_a_search_whose_workers_die_ends_as_one_without(attempts: Attempts, dies_at: tuple[int, ...]) -> None:
    """With the second pair none is left, and the trainer goes on alone."""
    assert attempts.run(1, **SEARCH) is EventKind.SUCCEEDED
    workers = hired(attempts, *dies_at)
    assert attempts.run(2, hire=workers, **SEARCH) is EventKind.SUCCEEDED
    assert workers.hands[0].walks == dies_at[0]
    assert_alike(attempts, 1, 2)


@pytest.mark.slow
def test_a_search_by_workers_that_was_paused_ends_as_one_that_was_not(attempts: Attempts) -> None:
    assert attempts.run(1, **SEARCH) is EventKind.SUCCEEDED
    workers = hired(attempts, 0, 0)
    wished = paused_after(6, workers)
    assert attempts.run(2, hire=workers, stop=wished, **SEARCH) is EventKind.PAUSED
    kept = attempts.last(EventKind.CHECKPOINT, 2)
    assert kept["step"] > 0
    assert attempts.run(3, hire=hired(attempts, 0, 0), resume=f"2/{kept['path']}", **SEARCH) is EventKind.SUCCEEDED
    assert_alike(attempts, 1, 3)


def paused_after(walks: int, workers: Hired) -> Callable[[], Any]:
    """A wish to pause once the workers have begun so many legs."""
    return lambda: "pause" if sum(hand.walks for hand in workers.hands) >= walks else None


@pytest.mark.slow
def test_a_worker_that_is_told_to_stop_leaves_its_trials_where_it_stopped(attempts: Attempts) -> None:
    found: list[Walked] = []

    @contextmanager
    def once(packed: Packed) -> Iterator[Crew]:
        worker = Worker(packed.opened(attempts.bases.__getitem__))
        yield Crew([Stopping(worker, found)], Died)

    stop = lambda: "cancel" if found else None  # noqa: E731
    assert attempts.run(1, hire=once, stop=stop, **SEARCH) is EventKind.CANCELLED
    [walked] = found
    assert walked.outputs == {}
    assert {plain["step"] for plain, _ in walked.trials} == {1}
    assert len(walked.steps) == 1


@dataclass
class Stopping:
    """Tells its worker to stop before the first step, which is then the last."""

    worker: Worker
    found: list[Walked]

    def walk(self, order: Order) -> "Future[Walked]":
        self.worker.stop()
        self.found.append(self.worker.walk(order))
        return done(self.found[-1])

    def steps(self, number: int, after: int) -> "Future[Sequence[Stepped]]":
        return done(self.worker.steps(number, after))

    def stop(self) -> None:
        self.worker.stop()


def done(value: Any) -> "Future[Any]":
    made: Future[Any] = Future()
    made.set_result(value)
    return made
