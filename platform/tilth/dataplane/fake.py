"""A data plane inside this process that keeps the port's promises; its scripted trainers can die, hang or be late."""

import threading
import time
from collections.abc import Callable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tilth.contract.messages import (
    EmbedReply,
    EmbedRequest,
    EventsPage,
    EventsQuery,
    Grant,
    Health,
    JobSpec,
    JobState,
    JobStatus,
    LoadReply,
    LoadRequest,
    PredictReply,
    PredictRequest,
)
from tilth.dataplane.fake_answers import FakeAnswers
from tilth.dataplane.fake_trainer import FakeTrainer, Script
from tilth.dataplane.port import DataPlaneDown, DataPlaneRefused, NoTrainerFree, StopMode


class FakeDataPlane:
    """Implements DataPlane; ``script`` says how each attempt goes."""

    def __init__(
        self,
        verify_key: Ed25519PublicKey,
        *,
        trainers: int = 1,
        script: Callable[[JobSpec], Script] = lambda spec: Script(),
        base_models: tuple[str, ...] = ("minilm-l6",),
    ) -> None:
        self.script = script
        self.trainers = trainers
        self.down = False
        """True: every call fails as when the network is cut."""
        self.refuses = ""
        """A sentence: every start is refused for good with it."""
        self.starts: list[tuple[str, int]] = []
        """Attempts in the order in which they were started."""
        self.loaded: list[str] = []
        self.answers = FakeAnswers()
        """Knobs of what is answered to batches."""
        self._verify_key = verify_key
        self._base_models = base_models
        self._attempts: dict[tuple[str, int], FakeTrainer] = {}
        self._lock = threading.RLock()

    def start(self, spec: JobSpec) -> JobStatus:
        """Takes a free trainer; the same attempt twice is one."""
        with self._up():
            self._check(spec.rows, spec.output, *filter(None, [spec.resume]))
            if self.refuses:
                raise DataPlaneRefused(self.refuses)
            if spec.base_model not in self._base_models:
                raise DataPlaneRefused(f"no base model {spec.base_model!r} here", code="unknown_base_model")
            if (spec.job, spec.attempt) not in self._attempts:
                device = f"fake:{self._free_slot()}"
                self._attempts[spec.job, spec.attempt] = FakeTrainer(spec, self.script(spec), device)
                self.starts.append((spec.job, spec.attempt))
            return self.status(spec.job, spec.attempt)

    def events(self, job: str, attempt: int, query: EventsQuery) -> EventsPage:
        """In order, after ``query.after``."""
        with self._up():
            self._check(query.grant)
            status = self.status(job, attempt)
            found = self._attempts.get((job, attempt))
            events = [event for event in found.readable() if event.seq > query.after] if found else []
            return EventsPage(events=tuple(events[: query.limit]), status=status)

    def stop(self, job: str, attempt: int, mode: StopMode) -> JobStatus:
        """Told to the trainer; unknown attempts stay unknown."""
        with self._up():
            if trainer := self._attempts.get((job, attempt)):
                trainer.kill() if mode == "kill" else trainer.stop(mode)
            return self.status(job, attempt)

    def status(self, job: str, attempt: int) -> JobStatus:
        """As the trainer stands now."""
        with self._up():
            trainer = self._attempts.get((job, attempt))
            if trainer is None:
                return JobStatus(job=job, attempt=attempt, state=JobState.UNKNOWN)
            trainer.advance()
            return JobStatus(job=job, attempt=attempt, state=trainer.state)

    def load(self, request: LoadRequest) -> LoadReply:
        """Remembers the digest."""
        with self._up():
            self._check(request.model.folder)
            self.loaded.append(request.model.digest)
            return LoadReply(digest=request.model.digest, generation=len(self.loaded))

    def predict(self, request: PredictRequest) -> PredictReply:
        """By ``answers``, several at a time."""
        with self._up():
            self._check(request.model.folder)
        return self.answers.predict(request)

    def embed(self, request: EmbedRequest) -> EmbedReply:
        """By ``answers``, several at a time."""
        with self._up():
            self._check(*([request.model.folder] if request.model else []))
        return self.answers.embed(request)

    def health(self) -> Health:
        """Free trainers now."""
        with self._up():
            free = self.trainers - len(self._running())
            return Health(ready=True, base_models=self._base_models, trainers_free=free, devices=("fake",))

    def kill(self, job: str, attempt: int) -> None:
        """The attempt's trainer dies now."""
        with self._lock:
            self._attempts[job, attempt].kill()

    def forget(self) -> None:
        """As after a restart of the whole data plane: no attempt is known."""
        with self._lock:
            self._attempts.clear()

    def _up(self) -> threading.RLock:
        if self.down:
            raise DataPlaneDown("the data plane is away")
        return self._lock

    def _running(self) -> list[FakeTrainer]:
        for trainer in self._attempts.values():
            trainer.advance()
        return [trainer for trainer in self._attempts.values() if trainer.state is JobState.RUNNING]

    def _free_slot(self) -> int:
        taken = {trainer.device for trainer in self._running()}
        for slot in range(self.trainers):
            if f"fake:{slot}" not in taken:
                return slot
        raise NoTrainerFree(f"all {self.trainers} trainers are busy")

    def _check(self, *grants: Grant) -> None:
        for grant in grants:
            try:
                self._verify_key.verify(bytes.fromhex(grant.signature), grant.signed_bytes())
            except (InvalidSignature, ValueError):
                raise DataPlaneRefused(f"the grant of {grant.url} is forged", code="grant_refused") from None
            if grant.expires_at < time.time():
                raise DataPlaneRefused(f"the grant of {grant.url} has expired", code="grant_refused")
