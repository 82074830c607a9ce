"""Many adapters in one batch, and 1,024 on one host: beside one adapter, the bare base, and what peft offers."""

import asyncio
import copy
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import uvloop
from torch import Tensor

from inference.adapters.pooling import mean_pooled
from inference.engine import limits
from inference.engine.base_models import Base
from inference.engine.precision import served_dtype
from tests.bench.adapter_rig import BARE, Host, digest_of, folder_of, many_in_peft, minilm, missing, packed_of

NAME = "adapters"
ADAPTERS = ROWS = 32
CLIENTS = 64
"""Each with one row of 16 tokens under way: as many as one forward takes."""
TOKENS = 16

Forward = Callable[[Tensor, Tensor], Tensor]


def run(*, full: bool) -> list[dict[str, str]]:
    """One batch by all ways in turns, then two hosts under traffic by turns; the medians of the rounds."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    limits.keep_freed()
    base, lines = minilm(), []
    with torch.inference_mode():
        ways = all_ways(base)
        for tokens in (16, 64) if full else (16,):
            ids = torch.randint(1000, 20_000, (ROWS, tokens), generator=torch.Generator().manual_seed(tokens))
            lines += shown(tokens, timed(ways, ids, rounds=30 if full else 2))
    del ways
    return lines + uvloop.run(under_traffic(base, full=full))


def all_ways(base: Base) -> dict[str, Forward]:
    """What answers a batch whose 32 rows belong to 32 adapters, and two that need fewer."""
    bare = copy.deepcopy(base.model).to(served_dtype("auto"))
    peft_model = many_in_peft(base, ADAPTERS)
    host = Host(base, 2 * ADAPTERS)
    for number in range(ADAPTERS):
        host.model.table.fill(number, host.model.table.pack(folder_of(peft_model, number, base.hidden_size), 384))
        host.model.table.fill(2 * ADAPTERS - 1 - number, host.model.table.contents[digest_of(number)])
    names = [f"adapter{number}" for number in range(ROWS)]

    def alone(ids: Tensor, mask: Tensor) -> Tensor:
        return mean_pooled(bare(input_ids=ids, attention_mask=mask).last_hidden_state.float(), mask)

    def by_names(ids: Tensor, mask: Tensor) -> Tensor:
        answer = peft_model(input_ids=ids, attention_mask=mask, adapter_names=names)
        return mean_pooled(answer.last_hidden_state.float(), mask)

    def swapping(ids: Tensor, mask: Tensor) -> Tensor:
        answers = []
        for row, name in enumerate(names):
            peft_model.set_adapter(name)
            one = mask[row : row + 1]
            hidden = peft_model(input_ids=ids[row : row + 1], attention_mask=one).last_hidden_state
            answers.append(mean_pooled(hidden.float(), one))
        return torch.cat(answers)

    ways: dict[str, Forward] = {
        "bare base, no adapter": alone,
        "1 adapter for all rows": lambda ids, mask: host.model.vectors(ids, mask, [0] * ROWS),
        "32 adapters mixed": lambda ids, mask: host.model.vectors(ids, mask, list(range(ROWS))),
        "32 adapters, slots scattered": lambda ids, mask: host.model.vectors(ids, mask, list(range(0, 2 * ROWS, 2))),
        "peft, adapter_names": by_names,
        "peft, one adapter after the other": swapping,
    }
    check(ways)
    return ways


def check(ways: dict[str, Forward]) -> None:
    """The three that mix 32 adapters answer the same; a faster wrong answer is none."""
    ids, mask = torch.randint(1000, 20_000, (ROWS, 16)), torch.ones(ROWS, 16, dtype=torch.long)
    ours = ways["32 adapters mixed"](ids, mask)
    near = 1e-5 if served_dtype("auto") is torch.float32 else 2e-2
    for name in ("peft, adapter_names", "peft, one adapter after the other"):
        torch.testing.assert_close(ours, ways[name](ids, mask), rtol=1e-4, atol=near)


def timed(ways: dict[str, Forward], ids: Tensor, *, rounds: int) -> dict[str, float]:
    """Rows/s of each way; a round asks each way once, so that noise meets all."""
    mask = torch.ones_like(ids)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, forward in ways.items():
            started = time.perf_counter()
            forward(ids, mask)
            if turn >= 1:  # the first warms the caches
                seconds[name].append(time.perf_counter() - started)
    return {name: ROWS / statistics.median(each) for name, each in seconds.items()}


def shown(tokens: int, rates: dict[str, float]) -> list[dict[str, str]]:
    """One line for each way, with the ratios that the goals name."""
    ours = rates["32 adapters mixed"]
    return [
        {"what": f"a batch of {ROWS} × {tokens}", "way": name, "rows/s": f"{rate:,.0f}", "p95 ms": "",
         "ratio": f"32 mixed ÷ this: {ours / rate:.2f}", "goal": goal(name, tokens)}
        for name, rate in rates.items()
    ]  # fmt: skip


def goal(name: str, tokens: int) -> str:
    """What is asked of the ratio."""
    swap = "≥ 5" if tokens == 16 else ""
    goals = {"bare base, no adapter": "≥ 0.85", "1 adapter for all rows": "≥ 0.95", "peft, adapter_names": "> 1"}
    return goals.get(name, swap if "after the other" in name else "")


@dataclass
class Traffic:
    """A host, and how often each adapter is asked for."""

    host: Host
    weights: Tensor
    digests: list[str]
    alone: bool = False
    """Deterministic: each row in a forward of its own."""
    rates: list[float] = field(default_factory=list)
    p95s: list[float] = field(default_factory=list)

    async def turn(self, seconds: float, seed: int) -> None:
        """Clients that ask without a pause; a request is one row of one adapter."""
        generator = torch.Generator().manual_seed(seed)
        drawn = iter(torch.multinomial(self.weights, 100_000, replacement=True, generator=generator).tolist())
        ids = [torch.randint(1000, 20_000, (TOKENS,), generator=generator).tolist()]
        spent: list[float] = []
        end = time.perf_counter() + seconds

        async def client() -> None:
            while (started := time.perf_counter()) < end:
                digest, deadline = self.digests[next(drawn)], time.monotonic() + 60
                async with self.host.batcher.held(digest, digest, missing, deadline) as slot:
                    await self.host.batcher.answers(digest, slot, ids, deadline, alone=self.alone)
                spent.append(time.perf_counter() - started)

        started = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        self.rates.append(len(spent) / (time.perf_counter() - started))
        self.p95s.append(1000 * statistics.quantiles(spent, n=20)[-1])

    @property
    def rate(self) -> float:
        """Rows/s."""
        return statistics.median(self.rates)

    @property
    def p95(self) -> float:
        """Milliseconds."""
        return statistics.median(self.p95s)


async def under_traffic(base: Base, *, full: bool) -> list[dict[str, str]]:
    """All kinds of traffic by turns, so that noise meets all."""
    count, few = (1024, 128) if full else (128, 32 + CLIENTS)
    traffics = all_traffics(base, count, few)
    for turn in range(9 if full else 2):
        for traffic in traffics.values():
            await traffic.turn(1.0 if turn == 0 else 6.0 if full else 3.0, turn)
    for traffic in traffics.values():
        del traffic.rates[0], traffic.p95s[0]  # the first warms the caches
    return lines(traffics, count, few)


def all_traffics(base: Base, count: int, few: int) -> dict[str, Traffic]:
    """By name: a host with a slot for each adapter, and one with few, under several kinds of traffic."""
    roomy, tight = Host(base, count + 1), Host(base, few)
    adapters = packed_of(base, roomy, count)
    for host in (roomy, tight):
        host.register(adapters)
    digests = [packed.digest for packed in adapters]
    uniform, zipf = torch.ones(count), 1 / torch.arange(1.0, count + 1)
    scattered = [digests[number] for number in torch.randperm(count, generator=torch.Generator().manual_seed(1))]
    return {
        "the base alone": Traffic(roomy, torch.ones(1), [BARE]),
        "1 adapter": Traffic(roomy, torch.ones(1), digests),
        "32 adapters": Traffic(roomy, torch.ones(32), scattered),
        "all, uniform": Traffic(roomy, uniform, digests),
        "all, Zipf": Traffic(roomy, zipf, digests),
        "all, uniform, deterministic": Traffic(roomy, uniform, digests, alone=True),
        "few slots, uniform": Traffic(tight, uniform, digests),
        "few slots, Zipf": Traffic(tight, zipf, digests),
    }


def lines(traffics: dict[str, Traffic], count: int, few: int) -> list[dict[str, str]]:
    """One for each traffic, with the ratio that its goal names."""
    beside = {
        "32 adapters": ("the base alone", "≥ 0.85"), "all, uniform": ("1 adapter", "≥ 0.95"),
        "all, Zipf": ("1 adapter", "≥ 0.95"), "all, uniform, deterministic": ("all, uniform", ""),
        "few slots, uniform": ("all, uniform", "≥ 0.7, p95 ≤ 3 ×"),
        "few slots, Zipf": ("all, Zipf", "≥ 0.7, p95 ≤ 3 ×"),
    }  # fmt: skip
    made = []
    for name, traffic in traffics.items():
        slots = few if "few" in name else count
        line = {"what": f"{count:,} adapters, {slots:,} slots", "way": name, "rows/s": f"{traffic.rate:,.0f}"}
        line["p95 ms"] = f"{traffic.p95:,.0f}"
        if name in beside:
            other, wanted = beside[name]
            rates = statistics.median(a / b for a, b in zip(traffic.rates, traffics[other].rates, strict=True))
            line["ratio"] = f"÷ {other}: {rates:.2f}, p95 {traffic.p95 / traffics[other].p95:.2f} ×"
            line["goal"] = wanted
        made.append(line)
    return made
