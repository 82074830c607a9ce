"""A checkpoint: everything a job needs to go on as if it had never stopped; no pickle, the manifest last."""

import hashlib
import json
from collections.abc import Mapping
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
DONE, OUTPUTS = "done.", "outputs.safetensors"


@dataclass(frozen=True)
class Progress:
    """Where a candidate at work is, in plain data."""

    candidate: str
    """Empty: none is at work."""
    rung: str
    step: int
    """Optimiser steps done, those of candidates before it included."""
    epoch: int
    batch_in_epoch: int
    """Batches of the present epoch done; the order is fixed by seed and epoch."""
    first: int = 0
    """Steps of the candidates before it."""
    best_epoch: int = -1
    best_score: float = float("-inf")
    epoch_loss: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    """What else the candidate needs, in plain data."""
    threads: int = field(default_factory=torch.get_num_threads)
    """Of torch when it was kept: with another number sums differ in their last bits."""


@dataclass(frozen=True)
class Kept:
    """An outcome as it lies in a checkpoint: the model's files, its outputs."""

    files: dict[str, bytes]
    tensors: dict[str, Tensor]
    tokens: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a resume needs."""

    progress: Progress
    tensors: dict[str, Tensor]
    """Of the candidate at work, and the random state."""
    done: dict[str, Kept]


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


def save_checkpoint(store: Store, grant: Grant, checkpoint: Checkpoint) -> tuple[str, str]:
    """Writes ``checkpoints/<step>/``; returns (folder, digest)."""
    progress = checkpoint.progress
    done = {name: {"tokens": kept.tokens, "facts": kept.facts} for name, kept in checkpoint.done.items()}
    files = {TENSORS: save(checkpoint.tensors), STATE: json.dumps({"at": asdict(progress), "done": done}).encode()}
    for name, kept in checkpoint.done.items():
        files |= {f"{DONE}{name}.{file}": content for file, content in kept.files.items()}
        files[f"{DONE}{name}.{OUTPUTS}"] = save(kept.tensors)
    folder = f"checkpoints/{progress.step}"
    return f"{folder}/", write_folder(store, grant, folder, files, rung=progress.rung, step=progress.step)


def load_checkpoint(store: Store, grant: Grant) -> Checkpoint:
    """What save_checkpoint wrote, every byte checked against the manifest; raises JobFault if one differs."""
    try:
        manifest = json.loads(store.read(grant, MANIFEST))
        files = {name: store.read(grant, name) for name in manifest["files"]}
    except (FileNotFoundError, SealBroken, ValueError, KeyError) as cause:
        raise JobFault("checkpoint_unreadable", f"the checkpoint at {grant.url} is not whole: {cause!r}") from cause
    found = folder_digest({name: hashlib.sha256(data).hexdigest() for name, data in files.items()})
    if found != manifest["digest"]:
        raise JobFault("checkpoint_unreadable", f"the checkpoint at {grant.url} was changed after it was written")
    state = json.loads(files[STATE])
    if "done" not in state:
        raise JobFault("checkpoint_unreadable", "the checkpoint was written by an earlier version; start the job again")
    done = {name: _kept(name, files, facts) for name, facts in state["done"].items()}
    return Checkpoint(Progress(**state["at"]), load(files[TENSORS]), done)


def _kept(name: str, files: dict[str, bytes], facts: dict[str, Any]) -> Kept:
    prefix = f"{DONE}{name}."
    own = {file.removeprefix(prefix): content for file, content in files.items() if file.startswith(prefix)}
    return Kept(own, load(own.pop(OUTPUTS)), **facts)


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state by parameter number and name."""
    state = optimiser.state_dict()["state"]
    return {f"optimiser.{i}.{name}": value for i, slot in state.items() for name, value in slot.items()}


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Takes over what ``optimiser_tensors`` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimiser."):
            _, number, key = name.split(".", 2)
            state.setdefault(int(number), {})[key] = value
    whole = optimiser.state_dict()
    optimiser.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
