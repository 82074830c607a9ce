"""Workers of a search: actors on the trainer's own node and in its device span, which end with it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tilth.contract.registry import vertical

from inference.settings import Settings

if TYPE_CHECKING:  # torch takes seconds to import: only processes that learn do
    from concurrent.futures import Future

    from inference.engine.search.crew import Crew
    from inference.engine.search.ground import Packed
    from inference.engine.search.leg import Stepped
    from inference.engine.search.worker import Order, Walked


class SearchWorker:
    """An actor around the engine's worker; ``steps`` and ``stop`` are heard while ``walk`` works in another thread."""

    def __init__(self, settings: Settings, face: str, packed: "Packed") -> None:
        import torch

        from inference.engine import limits, precision
        from inference.engine.base_models import Bases
        from inference.engine.search.worker import Worker

        torch.set_num_threads(max(1, settings.threads // settings.search_workers))
        precision.repeatable()
        limits.die_first()
        limits.keep_freed()
        self._memory = limits.trainer_memory(*settings.learners)
        bases, offers = Bases(settings.models), vertical(face)
        self._worker = Worker(packed.opened(lambda name: bases.get(offers.base_model(name))))

    def walk(self, order: "Order") -> "Walked":
        """One leg, in no more memory than the preflight counted on; beyond, an allocation fails."""
        from inference.engine import limits

        with limits.capped(limits.growth(self._memory)):
            return self._worker.walk(order)

    def steps(self, number: int, after: int) -> "Sequence[Stepped]":
        """Those taken so far."""
        return self._worker.steps(number, after)

    def stop(self) -> None:
        """Between two steps."""
        self._worker.stop()


@dataclass(frozen=True)
class ActorHand:
    """The engine's view of such an actor."""

    actor: Any

    def walk(self, order: "Order") -> "Future[Walked]":
        """Its future."""
        return self.actor.walk.remote(order).future()  # type: ignore[no-any-return]

    def steps(self, number: int, after: int) -> "Future[Sequence[Stepped]]":
        """Its future."""
        return self.actor.steps.remote(number, after).future()  # type: ignore[no-any-return]

    def stop(self) -> None:
        """Nobody waits for it."""
        self.actor.stop.remote()


def hire(settings: Settings, face: str) -> "Callable[[Packed], Any]":
    """Gives searches of a vertical their workers."""

    @contextmanager
    def hired(packed: "Packed") -> "Iterator[Crew]":
        from inference.engine.search.crew import Crew

        given = ray.put(packed)
        actors = [_worker(settings, face, given) for _ in range(settings.search_workers)]
        try:
            yield Crew([ActorHand(actor) for actor in actors], RayActorError)
        finally:
            for actor in actors:
                ray.kill(actor)

    return hired


def _worker(settings: Settings, face: str, given: Any) -> Any:
    """Owned by the process that asks for it, so that it ends with that one however it ends."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = ray.remote(SearchWorker).options(
        num_cpus=0.1, num_gpus=settings.gpu_share, max_restarts=0, max_concurrency=3, scheduling_strategy=here
    )  # fmt: skip
    return options.remote(settings, face, given)
