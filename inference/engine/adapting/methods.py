"""The registry of methods: what each makes learn in an encoder, and the tensors that this leaves behind."""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from peft import IA3Config, LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load, save
from tilth.contract import learning
from tilth.contract.learning import Targets
from tilth.contract.messages import ServedBy
from torch import Tensor, nn, no_grad

from inference.adapters.folder import ADAPTER, CONFIG, FolderRefused, adapter_files, read_json
from inference.engine.adapting.recipe import Recipe
from inference.engine.base_models import Base
from inference.engine.heads import adapter_config, linear_names

WEIGHTS = "weights.safetensors"
"""The parameters that a method without an adapter has changed, by their names in the base."""
BASE = "base_model"
"""Under this name such a file says on which base."""
QUERY_VALUE = frozenset(("query", "value", "q_proj", "v_proj", "q_lin", "v_lin"))
KEY_VALUE = frozenset(("key", "value", "k_proj", "v_proj", "k_lin", "v_lin"))
ATTENTION = QUERY_VALUE | KEY_VALUE | {"o_proj", "out_proj", "out_lin"}


class Method(Protocol):
    """One way to adapt an encoder."""

    @property
    def title(self) -> str:
        """In a sentence."""

    @property
    def rate(self) -> float:
        """The learning rate of AdamW that it is at home with."""

    @property
    def served_by(self) -> ServedBy:
        """What kind of host answers by what it leaves."""

    def size(self, model: nn.Module, recipe: Recipe) -> int:
        """Numbers that learn in an encoder."""

    def prepared(self, model: nn.Module, recipe: Recipe) -> nn.Module:
        """The encoder, a copy; only what learns in it requires gradients."""

    def learned(self, encoder: nn.Module) -> dict[str, Tensor]:
        """What learns in it, by the names of its files."""

    def restore(self, encoder: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what ``learned`` gave."""

    def files(self, tensors: Mapping[str, Tensor], base: Base, recipe: Recipe) -> dict[str, bytes]:
        """What ``learned`` gave as the files of a model's folder."""

    def opened(self, files: Mapping[str, bytes], base: Base) -> nn.Module:
        """The encoder, a copy, with what such files hold in it; raises FolderRefused."""

    def merged(self, files: Mapping[str, bytes], base: Base) -> dict[str, Tensor]:
        """Every parameter of the base that differs, as it is with what was learned in it; raises FolderRefused."""


@dataclass(frozen=True)
class Adapter:
    """What peft knows."""

    title: str
    rate: float
    config: Callable[[nn.Module, Recipe], PeftConfig]
    layer: Callable[[nn.Linear, Recipe], int]
    """Numbers that learn in a layer."""
    served_by: ServedBy = ServedBy.WHOLE

    def size(self, model: nn.Module, recipe: Recipe) -> int:
        """Of all layers that it adapts."""
        targets: Any = self.config(model, recipe).target_modules  # type: ignore[attr-defined]
        return sum(self.layer(_linear(model, name), recipe) for name in targets)

    def prepared(self, model: nn.Module, recipe: Recipe) -> nn.Module:
        """With peft's layers in it."""
        return _uncast(get_peft_model(copied(model, set()), self.config(model, recipe)))

    def learned(self, encoder: nn.Module) -> dict[str, Tensor]:
        """As peft saves it."""
        return dict(get_peft_model_state_dict(encoder))

    def restore(self, encoder: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """As peft loads it."""
        set_peft_model_state_dict(encoder, dict(tensors))

    def files(self, tensors: Mapping[str, Tensor], base: Base, recipe: Recipe) -> dict[str, bytes]:
        """peft's two."""
        return adapter_files(tensors, adapter_config(self.config(base.model, recipe), base))

    def opened(self, files: Mapping[str, bytes], base: Base) -> nn.Module:
        """As peft's own loading does it."""
        facts = {name: value for name, value in read_json(files, CONFIG).items() if value is not None}
        config = PeftConfig.from_peft_type(**facts)  # type: ignore[no-untyped-call]
        encoder = PeftModel(copied(base.model, set()), config)
        loaded: Any = set_peft_model_state_dict(encoder, load(files[ADAPTER]))
        unknown: list[str] = loaded.unexpected_keys
        if unknown:
            raise FolderRefused(f"{ADAPTER} has {', '.join(unknown[:3])}; the base {base.id} has no such layers")
        return _uncast(encoder)

    def merged(self, files: Mapping[str, bytes], base: Base) -> dict[str, Tensor]:
        """By peft's own merging, in a copy of what it adapts."""
        whole: Any = self.opened(files, replace(base, model=copy.deepcopy(base.model)))
        before = dict(base.model.named_parameters())
        found = whole.merge_and_unload().named_parameters()
        return {name: part.detach() for name, part in found if not part.equal(before[name])}


def _uncast(encoder: nn.Module) -> nn.Module:
    """Autocast settles types; peft would turn what comes in bf16 into fp32, for autocast to turn it back."""
    for part in encoder.modules():
        if isinstance(part, LoraLayer):
            part.cast_input_dtype_enabled = False
    return encoder


@dataclass(frozen=True)
class Parts:
    """Some of the base's own parameters."""

    title: str
    rate: float
    chosen: Callable[[nn.Module, Recipe], set[str]]
    served_by: ServedBy = ServedBy.WHOLE

    def size(self, model: nn.Module, recipe: Recipe) -> int:
        """Of those parameters."""
        return sum(model.get_parameter(name).numel() for name in self.chosen(model, recipe))

    def prepared(self, model: nn.Module, recipe: Recipe) -> nn.Module:
        """Only those learn."""
        chosen = self.chosen(model, recipe)
        encoder = copied(model, chosen)
        for name, part in encoder.named_parameters():
            part.requires_grad_(name in chosen)
        return encoder

    def learned(self, encoder: nn.Module) -> dict[str, Tensor]:
        """By their names."""
        return {name: part.detach() for name, part in encoder.named_parameters() if part.requires_grad}

    def restore(self, encoder: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """By their names."""
        own = dict(encoder.named_parameters())
        with no_grad():
            for name, tensor in tensors.items():
                own[name].copy_(tensor)

    def files(self, tensors: Mapping[str, Tensor], base: Base, recipe: Recipe) -> dict[str, bytes]:
        """One."""
        return {WEIGHTS: save({name: tensor.contiguous() for name, tensor in tensors.items()}, {BASE: base.id})}

    def opened(self, files: Mapping[str, bytes], base: Base) -> nn.Module:
        """A copy with those parameters in it."""
        changed = self.merged(files, base)
        encoder = copied(base.model, set(changed))
        self.restore(encoder, changed)
        return encoder

    def merged(self, files: Mapping[str, bytes], base: Base) -> dict[str, Tensor]:
        """As they are, if the base has them."""
        own, found = dict(base.model.named_parameters()), load(files[WEIGHTS])
        for name, tensor in found.items():
            if name not in own or own[name].shape != tensor.shape:
                there = tuple(own[name].shape) if name in own else "none"
                raise FolderRefused(f"{WEIGHTS} has {name} {tuple(tensor.shape)}; the base {base.id} has {there}")
        return found


def learned_on(weights: bytes) -> str:
    """The id of the base in a file of changed parameters: safetensors begin with their header's length and its JSON."""
    length = int.from_bytes(weights[:8], "little")
    return str(json.loads(weights[8 : 8 + length])["__metadata__"][BASE])


def copied(model: nn.Module, chosen: set[str]) -> nn.Module:
    """A copy whose parameters are the model's own but for those chosen: what is frozen need not be there twice."""
    shared = {id(part): part for name, part in model.named_parameters() if name not in chosen}
    return copy.deepcopy(model, shared)


def adapted(model: nn.Module, targets: Targets) -> list[str]:
    """The linear layers of an encoder that a low-rank method adapts."""
    names = linear_names(model)
    match targets:
        case Targets.ALL:
            return names
        case Targets.QUERY_VALUE:
            return _ending(names, QUERY_VALUE) or names
        case Targets.ATTENTION:
            return [name for name in names if "attention" in name or _last(name) in ATTENTION] or names


def _ending(names: list[str], wanted: frozenset[str]) -> list[str]:
    return [name for name in names if _last(name) in wanted]


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _low_rank(model: nn.Module, recipe: Recipe, *, magnitude: bool = False) -> LoraConfig:
    targets = adapted(model, recipe.targets)
    return LoraConfig(
        r=recipe.rank, lora_alpha=2 * recipe.rank, bias="none", target_modules=targets, use_dora=magnitude
    )  # fmt: skip


def _factors(model: nn.Module, recipe: Recipe) -> IA3Config:
    """Keys, values, and what the layer that narrows again reads."""
    names = linear_names(model)
    inner = [name for name in names if _narrows(_linear(model, name))]
    return IA3Config(target_modules=[*_ending(names, KEY_VALUE), *inner] or names, feedforward_modules=inner)


def _narrows(linear: nn.Linear) -> bool:
    return linear.in_features > linear.out_features


def _linear(model: nn.Module, name: str) -> nn.Linear:
    linear: Any = model.get_submodule(name)
    return linear  # type: ignore[no-any-return]


def _biases(model: nn.Module, recipe: Recipe) -> set[str]:
    return {name for name in _all(model, recipe) if _last(name) == "bias"}


def _all(model: nn.Module, recipe: Recipe) -> set[str]:
    return {name for name, _ in model.named_parameters() if "pooler" not in name}


def _last_layers(model: nn.Module, recipe: Recipe) -> set[str]:
    """Of the longest list of layers."""
    stacks = [(len(part), name) for name, part in model.named_modules() if isinstance(part, nn.ModuleList)]
    count, stack = max(stacks)
    kept = tuple(f"{stack}.{at}." for at in range(max(0, count - recipe.layers), count))
    return {name for name in _all(model, recipe) if name.startswith(kept)}


def _pair(linear: nn.Linear, recipe: Recipe) -> int:
    return recipe.rank * (linear.in_features + linear.out_features)


METHODS: dict[learning.Method, Method] = {
    learning.Method.LORA: Adapter("LoRA", 1e-3, _low_rank, _pair, ServedBy.STACKED),
    learning.Method.DORA: Adapter(
        "DoRA", 1e-3, partial(_low_rank, magnitude=True), lambda part, recipe: _pair(part, recipe) + part.out_features
    ),
    learning.Method.IA3: Adapter(
        "IA³", 1e-2, _factors, lambda part, _: part.in_features if _narrows(part) else part.out_features
    ),
    learning.Method.BITFIT: Parts("BitFit", 2e-3, _biases),
    learning.Method.LAST_LAYERS: Parts("fine-tuning of the last layers", 2e-4, _last_layers),
    learning.Method.FULL: Parts("full fine-tuning", 1e-4, _all),
}
"""Every one but the probe, which makes nothing learn in the encoder."""
