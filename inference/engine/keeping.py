"""Keeps checkpoints while a job climbs, and hands back what an earlier attempt kept."""

from collections.abc import Mapping

import torch
from tilth.contract.learning import Rung
from tilth.contract.messages import EventKind, Grant, JobSpec
from torch import Tensor

from inference.engine.candidate import Candidate, Outcome
from inference.engine.checkpoints import Checkpoint, Kept, Progress, Store, load_checkpoint, save_checkpoint
from inference.engine.spool import Spool


class Keeper:
    """What has learned is in every checkpoint, so that a resume never learns it again."""

    def __init__(self, store: Store, spec: JobSpec, spool: Spool) -> None:
        self._store = store
        self._output: Grant = spec.output
        self._spool = spool
        self._done: dict[str, Kept] = {}
        self._running: tuple[Progress, dict[str, Tensor]] | None = None
        self.step = 0
        """Of the checkpoint gone on from, or kept last."""
        if spec.resume is not None:
            found = load_checkpoint(store, spec.resume)
            self._done, self.step = dict(found.done), found.progress.step
            self._running = (found.progress, found.tensors) if found.progress.candidate else None

    def running(self, candidate: str) -> tuple[Progress, dict[str, Tensor]] | None:
        """Where a candidate was when it was kept last."""
        if self._running is None or self._running[0].candidate != candidate:
            return None
        return self._running

    def reopened(self, candidate: Candidate) -> Outcome | None:
        """What it gave in an earlier attempt."""
        kept = self._done.get(candidate.name)
        if kept is None:
            return None
        valid, crossed = kept.tensors["valid"], kept.tensors.get("crossed")
        model = candidate.reopen(kept.files)
        return Outcome(candidate.name, candidate.rung, model, valid, crossed, kept.tokens, kept.facts)

    def keep_done(self, done: Mapping[str, Outcome]) -> None:
        """A checkpoint of all that has learned, unless one has it already."""
        if set(done) <= set(self._done):
            return
        self._done = {name: _kept(outcome) for name, outcome in done.items()}
        if self.step == 0:  # a later one has its number from the steps of what learns on
            rung = list(done.values())[-1].rung
            self._keep(Progress("", rung, 0, 0, 0), {}, {})

    def keep_running(self, progress: Progress, tensors: dict[str, Tensor], metrics: dict[str, float]) -> None:
        """A checkpoint of a candidate at work; the same step is written once, and at step 0 there is nothing of it."""
        if progress.step == self.step:
            return
        self.step = progress.step
        self._running = (progress, tensors)
        self._keep(progress, tensors, metrics)

    def _keep(self, progress: Progress, tensors: dict[str, Tensor], metrics: dict[str, float]) -> None:
        whole = Checkpoint(progress, {**tensors, "random": torch.get_rng_state()}, self._done)
        path, digest = save_checkpoint(self._store, self._output, whole)
        rounded = {name: round(value, 6) for name, value in metrics.items()}
        data = {"step": progress.step, "rung": Rung(progress.rung).value, "path": path, "digest": digest}
        told = f"Checkpoint at step {progress.step}"
        self._spool.emit(EventKind.CHECKPOINT, told, data={**data, "metrics": {"step": progress.step, **rounded}})


def _kept(outcome: Outcome) -> Kept:
    tensors = {"valid": outcome.valid} | ({} if outcome.crossed is None else {"crossed": outcome.crossed})
    return Kept(dict(outcome.model.files()), tensors, outcome.tokens, outcome.facts)
