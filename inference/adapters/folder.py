"""The folder of a fine-tuned model: peft-compatible adapter, head, features, card; safetensors and JSON only."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from tilth.contract.digest import MANIFEST, folder_digest
from tilth.contract.errors import ContractError
from torch import Tensor

from inference.adapters.lora import LoraRefused, LoraWeights, read_lora

ADAPTER, CONFIG = "adapter_model.safetensors", "adapter_config.json"
HEAD, FEATURES, CARD = "head.safetensors", "features.json", "README.md"
ALLOWED = frozenset({ADAPTER, CONFIG, HEAD, FEATURES, CARD, MANIFEST})
FORMAT = 1


class FolderRefused(ContractError):
    """The folder is not one of ours, not whole, or not what its digest says."""


@dataclass(frozen=True)
class AdapterFolder:
    """A fine-tuned model as read: LoRA of the layers that it changes (none in a probe's), head, features, manifest."""

    lora: dict[str, LoraWeights]
    head: dict[str, Tensor]
    """weight [classes, hidden], bias [classes]."""
    features: dict[str, Any]
    manifest: dict[str, Any]
    digest: str
    """Computed from the bytes, not read from the manifest."""

    @property
    def rank(self) -> int:
        """The largest rank of its layers; 0 for a probe."""
        return max((weights.a.shape[0] for weights in self.lora.values()), default=0)


def bare(digest: str, width: int) -> AdapterFolder:
    """Changes nothing and has no class: in a slot of its own the base answers alone, beside everybody else's rows."""
    head = {"weight": torch.zeros(0, width), "bias": torch.zeros(0)}
    return AdapterFolder({}, head, {}, {}, digest)


def adapter_files(lora: Mapping[str, Tensor], config: dict[str, Any]) -> dict[str, bytes]:
    """An adapter's files by peft's names."""
    tensors = {name: tensor.contiguous() for name, tensor in lora.items()}
    return {CONFIG: json.dumps(config, indent=1, sort_keys=True).encode(), ADAPTER: save(tensors)}


def read_folder(files: Mapping[str, bytes]) -> AdapterFolder:
    """Checks and reads a folder; raises FolderRefused with what was found and what was expected."""
    if foreign := sorted(set(files) - ALLOWED):
        raise FolderRefused(f"the folder holds {', '.join(foreign)}; only safetensors, JSON and the card are allowed")
    manifest, digest = checked(files, {ADAPTER, CONFIG, HEAD, FEATURES})
    features = read_json(files, FEATURES)
    return AdapterFolder(_lora(files), _head(files), features, manifest, digest)


def checked(files: Mapping[str, bytes], needed: set[str]) -> tuple[dict[str, Any], str]:
    """(manifest, digest of the bytes); raises FolderRefused unless both agree and nothing is missing."""
    if missing := sorted({*needed, MANIFEST} - set(files)):
        raise FolderRefused(f"the folder lacks {', '.join(missing)}; it was not written to the end")
    manifest = read_json(files, MANIFEST)
    digest = folder_digest({name: hashlib.sha256(data).hexdigest() for name, data in files.items()})
    if digest != manifest.get("digest"):
        raise FolderRefused(f"the bytes have the digest {digest}, the manifest says {manifest.get('digest')}")
    if manifest.get("format") != FORMAT:
        raise FolderRefused(f"the folder has format {manifest.get('format')!r}; this version reads {FORMAT}")
    return manifest, digest


def _lora(files: Mapping[str, bytes]) -> dict[str, LoraWeights]:
    try:
        return read_lora(read_json(files, CONFIG), _tensors(files, ADAPTER))
    except LoraRefused as cause:
        raise FolderRefused(f"{ADAPTER}, {CONFIG}: {cause}") from cause


def _head(files: Mapping[str, bytes]) -> dict[str, Tensor]:
    head = _tensors(files, HEAD)
    shapes = {name: tuple(tensor.shape) for name, tensor in head.items()}
    if set(head) != {"weight", "bias"} or [len(shapes["weight"]), shapes["bias"]] != [2, shapes["weight"][:1]]:
        raise FolderRefused(f"{HEAD} holds {shapes}; expected weight [classes, hidden] and bias [classes]")
    if not all(tensor.isfinite().all() for tensor in head.values()):
        raise FolderRefused(f"{HEAD} holds NaN or infinity; the training that made it diverged: train it again")
    return head


def _tensors(files: Mapping[str, bytes], name: str) -> dict[str, Tensor]:
    try:
        return load(files[name])
    except (KeyError, SafetensorError) as cause:
        raise FolderRefused(f"{name} is no safetensors file: {cause}") from cause


def read_json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    try:
        found = json.loads(files[name])
    except (KeyError, ValueError, RecursionError) as cause:
        raise FolderRefused(f"{name} is no JSON: {cause}") from cause
    if not isinstance(found, dict):
        raise FolderRefused(f"{name} holds a {type(found).__name__}; expected an object")
    return found
