"""peft's LoRA as it is saved: which layer is changed by what, and whatever cannot be served exactly is refused."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from torch import Tensor

PEFT_PREFIX = "base_model.model."
LINEAR, EMBEDDING = (".lora_A.weight", ".lora_B.weight"), (".lora_embedding_A", ".lora_embedding_B")
"""How peft's names end: of a linear layer's two matrices, of an embedding's."""
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
HONOURED = frozenset({
    "peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "init_lora_weights",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout", "inference_mode",
    "base_model_name_or_path", "revision", "task_type", "auto_mapping", "peft_version", "eva_config",
    "megatron_core", "qalora_group_size", "runtime_config",
})  # fmt: skip
"""What is computed with, and what is nothing to an adapter once it has learned; the rest must be off."""
OFF: tuple[object, ...] = (None, False, "none", "", {}, [])
UNTOUCHED_BASE = ("true", "false", "gaussian", "orthogonal", "eva")
"""Ways to begin that leave the base's own weights as they are (not: pissa, olora, loftq, corda, lora_ga)."""
PLAIN = re.compile(r"[\w.]+")
"""A pattern that names layers; peft takes any regular expression, and from a stranger that can run for ever."""


class LoraRefused(ValueError):
    """The adapter cannot be served as peft would compute it."""


@dataclass(frozen=True)
class LoraWeights:
    """One layer's low-rank update: a [rank, in], b [out, rank]; the layer adds scaling · b a x.

    Of an embedding ``in`` is its number of tokens and x says which one.
    """

    a: Tensor
    b: Tensor
    scaling: float
    embeds: bool = False


def read_lora(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, LoraWeights]:
    """The layers that an adapter changes, by their names in the base; raises LoraRefused."""
    _refuse_unserved(config)
    paths = {_path(name) for name in tensors}
    return {
        path.removeprefix(PEFT_PREFIX): weights
        for path, embeds in sorted(paths)
        if (weights := _weights(config, tensors, path, embeds=embeds)).b.any() and weights.a.any()
    }


def _refuse_unserved(config: Mapping[str, Any]) -> None:
    if (kind := config.get("peft_type")) != "LORA":
        raise LoraRefused(f"peft_type is {kind!r}; only LORA is served: train the adapter as LoRA")
    for key, value in config.items():
        if key not in HONOURED and value not in OFF:
            raise LoraRefused(f"{key} is {value!r}, which is not served; train the adapter without it")
    begun = config.get("init_lora_weights", True)
    if str(begun).lower() not in UNTOUCHED_BASE:
        cure = "convert it with peft's path_initial_model_for_weight_conversion"
        raise LoraRefused(f"init_lora_weights is {begun!r}, which changes the base's own weights; {cure}")
    patterns = [*_pattern(config, "rank_pattern"), *_pattern(config, "alpha_pattern")]
    if strange := next((each for each in patterns if not PLAIN.fullmatch(each)), None):
        raise LoraRefused(f"the pattern {strange!r} is a regular expression; name the layers in full")


def _pattern(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = config.get(key) or {}
    if not isinstance(found, dict):
        raise LoraRefused(f"{key} is {found!r}; expected an object of layers")
    return found


def _path(name: str) -> tuple[str, bool]:
    """(the layer's path, whether it is an embedding) of a tensor's name."""
    for endings in (LINEAR, EMBEDDING):
        for ending in endings:
            if name.startswith(PEFT_PREFIX) and name.endswith(ending):
                return name.removesuffix(ending), endings is EMBEDDING
    cure = "save it with save_embedding_layers=False and without bias or modules_to_save"
    raise LoraRefused(f"the tensor {name} is no part of a LoRA that is served; {cure}")


def _weights(config: Mapping[str, Any], tensors: Mapping[str, Tensor], path: str, *, embeds: bool) -> LoraWeights:
    a, b = (_matrix(tensors, path + ending) for ending in (EMBEDDING if embeds else LINEAR))
    rank, scaling = _rank_and_scaling(config, path.removeprefix(PEFT_PREFIX))
    if (a.shape[0], b.shape[1]) != (rank, rank):
        found = f"A {tuple(a.shape)} and B {tuple(b.shape)}"
        raise LoraRefused(f"{path} has {found}; by adapter_config.json its rank is {rank}")
    return LoraWeights(a, b, scaling, embeds)


def _matrix(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    found = tensors.get(name)
    if found is None:
        raise LoraRefused(f"{name} is missing; the adapter was not saved whole")
    if found.dim() != 2 or found.dtype not in FLOATS:
        raise LoraRefused(f"{name} is {tuple(found.shape)} of {found.dtype}; expected a matrix of floats")
    if not found.isfinite().all():
        raise LoraRefused(f"{name} holds NaN or infinity; the training that made it diverged: train it again")
    return found


def _rank_and_scaling(config: Mapping[str, Any], layer: str) -> tuple[int, float]:
    """As peft finds them: a pattern that matches the layer's name comes before the adapter's own numbers."""
    ranks, alphas = _pattern(config, "rank_pattern"), _pattern(config, "alpha_pattern")
    try:
        rank = int({layer: config["r"], **ranks}[get_pattern_key(list(ranks), layer)])
        alpha = float({layer: config["lora_alpha"], **alphas}[get_pattern_key(list(alphas), layer)])
        scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    except (KeyError, TypeError, ValueError, ArithmeticError) as cause:
        raise LoraRefused(f"adapter_config.json gives {layer} no rank and lora_alpha: {cause!r}") from cause
    if rank < 1 or not math.isfinite(scaling):
        raise LoraRefused(f"adapter_config.json gives {layer} the rank {rank} and the scaling {scaling}")
    return rank, scaling
