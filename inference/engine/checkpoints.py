"""A checkpoint: everything a run needs to go on as if it had never stopped, in safetensors and JSON, manifest last."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from safetensors.torch import load, save
from tilth.contract.digest import MANIFEST, folder_digest
from tilth.contract.errors import SealBroken
from tilth.contract.messages import Grant
from torch import Tensor

from inference.engine.errors import JobFault

TENSORS, STATE = "state.safetensors", "state.json"


@dataclass(frozen=True)
class Progress:
    """Where a run is, in plain data."""

    rung: str
    step: int
    """Optimiser steps done."""
    epoch: int
    batch_in_epoch: int
    """Batches of the present epoch done; the order is fixed by seed and epoch."""
    best_epoch: int = -1
    best_score: float = -1.0
    epoch_loss: float = 0.0
    strength: float = 0.0
    """C of the probe."""
    history: list[dict[str, float]] = field(default_factory=list)


class Store(Protocol):
    """The part of Storage that checkpoints need."""

    def read(self, grant: Grant, name: str = "") -> bytes:
        """One object below a prefix."""

    def write(self, grant: Grant, name: str, data: bytes) -> None:
        """Writes one object whole."""


def write_folder(store: Store, grant: Grant, folder: str, files: dict[str, bytes], **facts: Any) -> str:
    """Writes files below a prefix, their manifest last; returns the digest. Without a manifest a folder counts not."""
    names = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    digest = folder_digest(names)
    for name, data in files.items():
        store.write(grant, f"{folder}/{name}", data)
    manifest = {"files": names, "digest": digest, "format": 1, **facts}
    store.write(grant, f"{folder}/{MANIFEST}", json.dumps(manifest, indent=1, sort_keys=True).encode())
    return digest


def save_checkpoint(store: Store, grant: Grant, progress: Progress, tensors: dict[str, Tensor]) -> tuple[str, str]:
    """Writes ``checkpoints/<step>/`` with the random state; returns (folder, digest)."""
    kept = {**tensors, "random": torch.get_rng_state()}
    files = {TENSORS: save(kept), STATE: json.dumps(asdict(progress)).encode()}
    folder = f"checkpoints/{progress.step}"
    return f"{folder}/", write_folder(store, grant, folder, files, rung=progress.rung, step=progress.step)


def load_checkpoint(store: Store, grant: Grant) -> tuple[Progress, dict[str, Tensor]]:
    """What save_checkpoint wrote, every byte checked against the manifest; raises JobFault if one differs."""
    try:
        manifest = json.loads(store.read(grant, MANIFEST))
        files = {name: store.read(grant, name) for name in manifest["files"]}
    except (FileNotFoundError, SealBroken, ValueError, KeyError) as cause:
        raise JobFault("checkpoint_unreadable", f"the checkpoint at {grant.url} is not whole: {cause!r}") from cause
    found = folder_digest({name: hashlib.sha256(data).hexdigest() for name, data in files.items()})
    if found != manifest["digest"]:
        raise JobFault("checkpoint_unreadable", f"the checkpoint at {grant.url} was changed after it was written")
    return Progress(**json.loads(files[STATE])), load(files[TENSORS])


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state by parameter number and name."""
    state = optimiser.state_dict()["state"]
    return {f"optimiser.{i}.{name}": value for i, slot in state.items() for name, value in slot.items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Takes over what ``optimiser_tensors`` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimiser."):
            _, number, key = name.split(".", 2)
            state.setdefault(int(number), {})[key] = value
    whole = optimiser.state_dict()
    optimiser.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
