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

ADAPTER, CONFIG = "adapter_model.safetensors", "adapter_config.json"
HEAD, FEATURES, CARD = "head.safetensors", "features.json", "README.md"
ALLOWED = frozenset({ADAPTER, CONFIG, HEAD, FEATURES, CARD, MANIFEST})
PEFT_PREFIX = "base_model.model."
FORMAT = 1


class FolderRefused(ContractError):
    """The folder is not one of ours, not whole, or not what its digest says."""


@dataclass(frozen=True)
class LoraWeights:
    """One layer's low-rank update: a [rank, in], b [out, rank]; the layer adds scaling · b a x."""

    a: Tensor
    b: Tensor


@dataclass(frozen=True)
class AdapterFolder:
    """A fine-tuned model as read: LoRA of the layers that it changes (none in a probe's), head, features, manifest."""

    lora: dict[str, LoraWeights]
    scaling: float
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
    return AdapterFolder({}, 0.0, head, {}, {}, digest)


def adapter_files(lora: Mapping[str, Tensor], config: dict[str, Any]) -> dict[str, bytes]:
    """An adapter's files by peft's names."""
    tensors = {name: tensor.contiguous() for name, tensor in lora.items()}
    return {CONFIG: json.dumps(config, indent=1, sort_keys=True).encode(), ADAPTER: save(tensors)}


def read_folder(files: Mapping[str, bytes]) -> AdapterFolder:
    """Checks and reads a folder; raises FolderRefused with what was found and what was expected."""
    if foreign := sorted(set(files) - ALLOWED):
        raise FolderRefused(f"the folder holds {', '.join(foreign)}; only safetensors, JSON and the card are allowed")
    manifest, digest = checked(files, {ADAPTER, CONFIG, HEAD, FEATURES})
    lora, scaling = _lora(files)
    return AdapterFolder(lora, scaling, _tensors(files, HEAD), read_json(files, FEATURES), manifest, digest)


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


def _lora(files: Mapping[str, bytes]) -> tuple[dict[str, LoraWeights], float]:
    config, tensors = read_json(files, CONFIG), _tensors(files, ADAPTER)
    ending = ".lora_A.weight"
    paths = [name.removesuffix(ending) for name in tensors if name.endswith(ending)]
    try:
        layers = {
            path.removeprefix(PEFT_PREFIX): LoraWeights(tensors[f"{path}{ending}"], tensors[f"{path}.lora_B.weight"])
            for path in paths
        }
        scaling = float(config["lora_alpha"]) / float(config["r"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as cause:
        raise FolderRefused(f"{CONFIG} and {ADAPTER} do not describe a LoRA adapter: {cause!r}") from cause
    return {name: weights for name, weights in layers.items() if weights.b.any()}, scaling


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
