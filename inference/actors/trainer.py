"""Trainers: each process serves one job, then the next pre-warmed one takes its place."""

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import ray
from ray.exceptions import RayActorError, RayError
from tilth.contract.messages import JobSpec, JobState, JobStatus
from tilth.contract.registry import vertical, verticals

from inference.actors.searching import hire
from inference.settings import Settings
from inference.storage import Storage, load_verify_key

if TYPE_CHECKING:  # torch takes seconds to import: only the trainers' own processes do, while they are warmed
    from inference.engine.base_models import Base

log = logging.getLogger(__name__)

POOL = "trainer-pool"
NAMESPACE = "tilth"
HEARS_S = 2.0
"""A trainer that is well has heard a wish by then."""
WARM_AFTER_S = 8.0
"""The next trainer is warmed this long after a job began, not while it takes its first steps; or when it has ended."""


class Trainer:
    """One process, one job. ``stop`` is heard while ``run`` works in another thread."""

    def __init__(self, settings: Settings) -> None:
        import torch

        from inference.engine import job, limits, precision
        from inference.engine.base_models import Bases

        torch.set_num_threads(settings.threads)
        precision.repeatable()
        limits.die_first()
        limits.keep_freed()
        self._memory = limits.trainer_memory(*settings.learners)
        self._settings = settings
        self._storage = Storage(load_verify_key(settings.verify_key))
        self._stop: Literal["pause", "cancel"] | None = None
        self._run_job, self._bases = job.run_job, Bases(settings.models)
        for face in verticals().values():
            self._bases.get(face.base_models[0])

    def ready(self) -> bool:
        """True once the base models are loaded."""
        return True

    def run(self, spec: JobSpec) -> str:
        """The whole of one attempt; its events are in storage."""

        def base(model_id: str) -> "Base":
            return self._bases.get(vertical(spec.vertical).base_model(model_id))

        settings, storage = self._settings, self._storage
        spec = spec.model_copy(update={"share_millis": min(spec.share_millis, settings.trainer_share_millis)})
        ended = self._run_job(
            spec, storage=storage, stop=lambda: self._stop, base=base, heartbeat_s=settings.heartbeat_s,
            memory=self._memory, hire=hire(settings, spec.vertical) if settings.search_workers else None,
        )  # fmt: skip
        return ended.value

    def stop(self, mode: Literal["pause", "cancel"]) -> None:
        """Heard between two steps; a cancel outranks a pause."""
        if self._stop != "cancel":
            self._stop = mode


@dataclass
class Attempt:
    """An attempt as the pool knows it."""

    trainer: Any
    state: JobState = JobState.RUNNING


class NoTrainer(Exception):
    """All trainers are at work, or none is warm yet."""


class TrainerPool:
    """Keeps warm trainers, hands each one job, and knows which attempts run; asynchronous, one thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._attempts: dict[tuple[str, int], Attempt] = {}
        self._warm: list[Any] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._background(self._warm_one())

    async def start(self, spec: JobSpec) -> JobStatus | None:
        """Starts an attempt, or finds it started; None if no trainer is free."""
        key = (spec.job, spec.attempt)
        if key not in self._attempts:
            trainer = await self._take()
            if trainer is None:
                return None
            self._attempts.setdefault(key, Attempt(trainer))
            self._background(self._watch(key, spec))
        return await self.status(*key)

    async def status(self, job: str, attempt: int) -> JobStatus:
        """What is known of an attempt; a restarted pool knows nothing of former ones."""
        known = self._attempts.get((job, attempt))
        return JobStatus(job=job, attempt=attempt, state=known.state if known else JobState.UNKNOWN)

    async def stop(self, job: str, attempt: int, mode: Literal["pause", "cancel", "kill"]) -> JobStatus:
        """Passes the wish on; a trainer that is gone, or hangs, hears nothing. Killing ends a hanging one, too."""
        known = self._attempts.get((job, attempt))
        if known is not None and known.state is JobState.RUNNING:
            if mode == "kill":
                ray.kill(known.trainer)
            else:
                with contextlib.suppress(RayError, TimeoutError):
                    await asyncio.wait_for(known.trainer.stop.remote(mode), HEARS_S)
        return await self.status(job, attempt)

    async def free(self) -> int:
        """Jobs that could start now."""
        return min(len(self._warm), self._settings.max_trainers - self._working())

    def _working(self) -> int:
        return sum(attempt.state is JobState.RUNNING for attempt in self._attempts.values())

    async def _take(self) -> Any:
        """A warm trainer that still lives; None if there is none or enough are at work."""
        while self._warm and self._working() < self._settings.max_trainers:
            trainer = self._warm.pop(0)
            try:
                await trainer.ready.remote()
            except RayActorError:
                self._background(self._warm_one())
                continue
            return trainer
        return None

    async def _watch(self, key: tuple[str, int], spec: JobSpec) -> None:
        attempt, ended = self._attempts[key], asyncio.Event()
        self._background(self._warm_one(ended))
        try:
            await attempt.trainer.run.remote(spec)
            attempt.state = JobState.FINISHED
        except RayActorError as gone:
            log.warning("attempt %s of job %s lost its trainer: %s", spec.attempt, spec.job, gone)
            attempt.state = JobState.LOST
        except RayError as bug:
            log.error("attempt %s of job %s: %s", spec.attempt, spec.job, bug)
            attempt.state = JobState.FINISHED
        ended.set()
        ray.kill(attempt.trainer)
        attempt.trainer = None

    async def _warm_one(self, ended: asyncio.Event | None = None) -> None:
        """One more, beside a job's first steps only if that has ended."""
        if ended is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), WARM_AFTER_S)
        trainer = new_trainer(self._settings)
        try:
            await trainer.ready.remote()
        except RayError as fault:
            log.error("a trainer could not be warmed: %s", fault)
            await asyncio.sleep(WARM_AFTER_S)
            self._background(self._warm_one())
            return
        self._warm.append(trainer)

    def _background(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def new_trainer(settings: Settings) -> Any:
    """A fresh process that loads its base models; never restarted, since it serves one job."""
    options: dict[str, Any] = {"num_cpus": 0.1, "num_gpus": settings.gpu_share, "max_restarts": 0}
    return ray.remote(Trainer).options(max_concurrency=3, **options).remote(settings)


def trainer_pool(settings: Settings) -> Any:
    """The one pool of the cluster; it outlives whoever made it."""
    options: dict[str, Any] = {"name": POOL, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
    return ray.remote(TrainerPool).options(num_cpus=0.1, max_restarts=-1, **options).remote(settings)
