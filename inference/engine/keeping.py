"""Keeps checkpoints while a job climbs, and hands back what an earlier attempt kept."""

from dataclasses import replace

from tilth.contract.messages import EventKind, Grant, JobSpec, Rung
from torch import Tensor

from inference.engine.checkpoints import Progress, Store, load_checkpoint, save_checkpoint
from inference.engine.outcome import Outcome
from inference.engine.probe import Head
from inference.engine.spool import Spool


class Keeper:
    """The probe is in every checkpoint, so that a resume never computes it again."""

    def __init__(self, store: Store, spec: JobSpec, spool: Spool) -> None:
        self._store = store
        self._output: Grant = spec.output
        self._spool = spool
        self._strength = 0.0
        self.probe: Outcome | None = None
        self.lora: tuple[Progress, dict[str, Tensor]] | None = None
        self.step = 0
        """Of the checkpoint gone on from."""
        if spec.resume is not None:
            self._take_over(spec.resume)

    def keep_probe(self, outcome: Outcome, strength: float) -> None:
        """The first checkpoint: from here on something servable exists."""
        self.probe, self._strength = outcome, strength
        self._keep(Progress(Rung.PROBE, 0, 0, 0, strength=strength), {}, {})

    def keep_lora(self, progress: Progress, tensors: dict[str, Tensor], metrics: dict[str, float]) -> None:
        """A checkpoint of the run; the same step is written once, and at step 0 the probe's says it all."""
        if progress.step == self.step:
            return
        self.step = progress.step
        self.lora = (progress, tensors)
        self._keep(replace(progress, strength=self._strength), tensors, metrics)

    def _keep(self, progress: Progress, tensors: dict[str, Tensor], metrics: dict[str, float]) -> None:
        whole = {**tensors, **self._probe_tensors()}
        path, digest = save_checkpoint(self._store, self._output, progress, whole)
        rounded = {name: round(value, 6) for name, value in metrics.items()}
        data = {"step": progress.step, "rung": progress.rung, "path": path, "digest": digest}
        told = f"Checkpoint at step {progress.step}"
        self._spool.emit(EventKind.CHECKPOINT, told, data={**data, "metrics": {"step": progress.step, **rounded}})

    def _probe_tensors(self) -> dict[str, Tensor]:
        if self.probe is None:
            return {}
        head = self.probe.head
        return {"probe.weight": head.weight, "probe.bias": head.bias, "probe.logits": self.probe.valid_logits}

    def _take_over(self, grant: Grant) -> None:
        progress, tensors = load_checkpoint(self._store, grant)
        head = Head(tensors["probe.weight"], tensors["probe.bias"])
        self.probe = Outcome(Rung.PROBE, head, tensors["probe.logits"])
        self._strength, self.step = progress.strength, progress.step
        if progress.rung == Rung.LORA:
            self.lora = (progress, tensors)
