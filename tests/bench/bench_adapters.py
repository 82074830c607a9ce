"""32 adapters in one batch, each of rank 16 on all linear layers of MiniLM, in the precision that is served."""

import copy
import os
import statistics
import time
from collections.abc import Callable

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from tilth.contract.registry import vertical
from torch import Tensor

from inference.adapters.folder import PEFT_PREFIX, AdapterFolder, LoraWeights
from inference.adapters.pooling import mean_pooled
from inference.adapters.stacked import StackedModel
from inference.engine.base_models import Base, load_base
from inference.engine.heads import linear_names

NAME = "adapters"
ADAPTERS = 32
RANK = 16
ROWS = 32

Forward = Callable[[Tensor, Tensor], Tensor]


def run(*, full: bool) -> list[dict[str, str]]:
    """Rows/s of one batch of 32 rows at 16 and at 64 tokens; all ways by turns, the median of the rounds."""
    torch.set_num_threads(os.cpu_count() or 1)
    base = load_base(vertical("support_chat").base_models[0])
    lines = []
    with torch.inference_mode():
        ways = all_ways(base)
        for tokens in (16, 64):
            ids = torch.randint(1000, 20_000, (ROWS, tokens), generator=torch.Generator().manual_seed(tokens))
            lines += shown(tokens, timed(ways, ids, rounds=40 if full else 12))
    return lines


def all_ways(base: Base) -> dict[str, Forward]:
    """What answers a batch whose 32 rows belong to 32 adapters, and two that need fewer."""
    bare = copy.deepcopy(base.model)
    peft_model = many_in_peft(base)
    stacked = stacked_from(base, peft_model)
    names = [f"adapter{number}" for number in range(ROWS)]

    def alone(ids: Tensor, mask: Tensor) -> Tensor:
        return mean_pooled(bare(input_ids=ids, attention_mask=mask).last_hidden_state, mask)

    def by_names(ids: Tensor, mask: Tensor) -> Tensor:
        answer = peft_model(input_ids=ids, attention_mask=mask, adapter_names=names)
        return mean_pooled(answer.last_hidden_state, mask)

    def swapping(ids: Tensor, mask: Tensor) -> Tensor:
        answers = []
        for row, name in enumerate(names):
            peft_model.set_adapter(name)
            one = mask[row : row + 1]
            hidden = peft_model(input_ids=ids[row : row + 1], attention_mask=one).last_hidden_state
            answers.append(mean_pooled(hidden, one))
        return torch.cat(answers)

    ways: dict[str, Forward] = {
        "bare base, no adapter": alone,
        "1 adapter for all rows": lambda ids, mask: stacked.vectors(ids, mask, [0] * ROWS),
        "32 adapters mixed": lambda ids, mask: stacked.vectors(ids, mask, list(range(ROWS))),
        "32 adapters, slots scattered": lambda ids, mask: stacked.vectors(ids, mask, list(range(0, 2 * ROWS, 2))),
        "peft, adapter_names": by_names,
        "peft, one adapter after the other": swapping,
    }
    check(ways)
    return ways


def many_in_peft(base: Base) -> PeftModel:
    """32 random adapters in one peft model, as its users hold them."""
    torch.manual_seed(0)
    names = linear_names(base.model)
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=names, bias="none", inference_mode=True)
    model: PeftModel = get_peft_model(copy.deepcopy(base.model), config, adapter_name="adapter0")
    for number in range(1, ADAPTERS):
        model.add_adapter(f"adapter{number}", config)
    for name, part in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(part, std=0.02)
    return model.eval()


def stacked_from(base: Base, peft_model: PeftModel) -> StackedModel:
    """The same adapters in slots 0 to 31; the next 32 slots hold other adapters and are only passed over."""
    model = StackedModel(base.model, linear_names(base.model), slots=2 * ADAPTERS, rank=RANK)
    for slot in range(2 * ADAPTERS):
        model.table.fill(slot, folder_of(peft_model, slot % ADAPTERS, base.hidden_size))
    return model


def folder_of(peft_model: PeftModel, number: int, hidden: int) -> AdapterFolder:
    """One of peft's adapters, as it is read from storage."""
    tensors = get_peft_model_state_dict(peft_model, adapter_name=f"adapter{number}")
    lora = {
        name.removeprefix(PEFT_PREFIX).removesuffix(".lora_A.weight"): LoraWeights(a, tensors[b_of(name)])
        for name, a in tensors.items()
        if name.endswith(".lora_A.weight")
    }
    head = {"weight": torch.zeros(2, hidden), "bias": torch.zeros(2)}
    return AdapterFolder(lora, 2.0, head, {}, {}, f"sha256:{number:064x}")


def b_of(name: str) -> str:
    """The name of the B that belongs to an A."""
    return name.replace("lora_A", "lora_B")


def check(ways: dict[str, Forward]) -> None:
    """The three that mix 32 adapters answer the same; a faster wrong answer is none."""
    ids, mask = torch.randint(1000, 20_000, (ROWS, 16)), torch.ones(ROWS, 16, dtype=torch.long)
    ours = ways["32 adapters mixed"](ids, mask)
    for name in ("peft, adapter_names", "peft, one adapter after the other"):
        torch.testing.assert_close(ours, ways[name](ids, mask), rtol=1e-4, atol=1e-5)


def timed(ways: dict[str, Forward], ids: Tensor, *, rounds: int) -> dict[str, float]:
    """Rows/s of each way; a round asks each way once, so that noise meets all."""
    mask = torch.ones_like(ids)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 2):
        for name, forward in ways.items():
            started = time.perf_counter()
            forward(ids, mask)
            if turn >= 2:  # the first two warm the caches
                seconds[name].append(time.perf_counter() - started)
    return {name: ROWS / statistics.median(each) for name, each in seconds.items()}


def shown(tokens: int, rates: dict[str, float]) -> list[dict[str, str]]:
    """One line for each way, with the ratios that the goals name."""
    ours = rates["32 adapters mixed"]
    return [
        {
            "batch": f"{ROWS} × {tokens}", "way": name, "rows/s": f"{rate:,.0f}",
            "32 mixed : this": f"{ours / rate:.2f}", "goal": goal(name, tokens),
        }
        for name, rate in rates.items()
    ]  # fmt: skip


def goal(name: str, tokens: int) -> str:
    """What issue and design ask of the ratio."""
    swap = "≥ 5" if tokens == 16 else ""
    goals = {"bare base, no adapter": "≥ 0.85", "1 adapter for all rows": "≥ 0.95", "peft, adapter_names": "> 1"}
    return goals.get(name, swap if "after the other" in name else "")
