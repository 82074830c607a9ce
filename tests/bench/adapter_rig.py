"""Hosts with many random adapters of rank 16 on all linear layers of MiniLM, in the precision that is served."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from tilth.contract.registry import vertical

from inference.adapters.batcher import Batcher
from inference.adapters.folder import AdapterFolder, bare
from inference.adapters.lora import LoraWeights, read_lora
from inference.adapters.pool import Pool
from inference.adapters.slots import Packed
from inference.adapters.stacked import StackedModel
from inference.engine.base_models import Base, load_base
from inference.engine.heads import linear_names
from inference.engine.precision import served_dtype

RANK = 16
CLASSES = 10
BARE = f"sha256:{0:064x}"
"""The digest of the base alone."""


def minilm() -> Base:
    """The text base of the product."""
    return load_base(vertical("support_chat").base_models[0])


def many_in_peft(base: Base, count: int) -> PeftModel:
    """So many random adapters in one peft model, as its users hold them."""
    torch.manual_seed(0)
    config = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules=linear_names(base.model), bias="none", inference_mode=True
    )
    model: PeftModel = get_peft_model(copy.deepcopy(base.model), config, adapter_name="adapter0")
    for number in range(1, count):
        model.add_adapter(f"adapter{number}", config)
    for name, part in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(part, std=0.02)
    return model.eval().to(served_dtype("auto"))


def folder_of(model: PeftModel, number: int, hidden: int) -> AdapterFolder:
    """One of peft's adapters, as it is read from storage."""
    tensors = get_peft_model_state_dict(model, adapter_name=f"adapter{number}")
    lora = read_lora({"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK}, tensors)
    head = {"weight": torch.randn(CLASSES, hidden), "bias": torch.zeros(CLASSES)}
    return AdapterFolder(lora, head, {}, {}, digest_of(number))


def digest_of(number: int) -> str:
    """Of adapter ``number``; 0 is the bare base."""
    return f"sha256:{number + 1:064x}"


class Host:
    """A base whose adapters are all in host memory, with so many slots before it."""

    def __init__(self, base: Base, slots: int) -> None:
        self.model = StackedModel(
            copy.deepcopy(base.model), linear_names(base.model), slots=slots, rank=RANK, dtype=served_dtype("auto")
        )
        self.pool = Pool(self.model.table, base.hidden_size, memory_mb=1 << 20)
        self.batcher = Batcher(self.model, self.pool)
        self.pool.remember(self.model.table.pack(bare(BARE, base.hidden_size), base.hidden_size))

    def register(self, adapters: Sequence[Packed]) -> None:
        """Puts adapters into host memory, and into slots as long as there are free ones."""
        for packed in adapters:
            self.pool.remember(packed)
        for packed in adapters[: self.model.table.slots]:
            self.pool.unpin(self.pool.pin(packed.digest, missing))


def missing() -> AdapterFolder:
    """No adapter of a rig is read from storage."""
    raise FileNotFoundError("the adapter is in host memory")


def packed_of(base: Base, host: Host, count: int) -> list[Packed]:
    """So many random adapters as a host keeps them in memory; their numbers repeat, in memory of their own."""
    torch.manual_seed(0)
    distinct = [random_folder(base) for _ in range(min(count, 16))]
    return [
        host.model.table.pack(replace(distinct[number % len(distinct)], digest=digest_of(number)), base.hidden_size)
        for number in range(count)
    ]


def random_folder(base: Base) -> AdapterFolder:
    """An adapter of rank RANK on all linear layers."""
    lora = {}
    for name in linear_names(base.model):
        outputs, inputs = base.model.get_submodule(name).weight.shape  # type: ignore[misc]
        lora[name] = LoraWeights(torch.randn(RANK, inputs) * 0.02, torch.randn(outputs, RANK) * 0.02, 2.0)
    head = {"weight": torch.randn(CLASSES, base.hidden_size), "bias": torch.zeros(CLASSES)}
    return AdapterFolder(lora, head, {}, {}, "")
