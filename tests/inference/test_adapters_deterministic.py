"""With it, an answer is the same to the bit alone, in any mixture, in any slot and at any time."""

import asyncio
import random
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from inference.adapters.batcher import Batcher
from inference.adapters.pool import Pool
from inference.adapters.stacked import StackedModel
from inference.engine.base_models import Base
from inference.engine.heads import linear_names
from tests.inference.adapter_world import again

TEXT = [5, 6, 7, 8, 9, 10, 11, 12, 13]


def same(folder: Any) -> Any:
    return folder


class Mixed:
    """Batches of rows drawn by lot around one row that is always the same."""

    def __init__(self, base: Base, folders: list[Any], *, slots: int, dtype: torch.dtype, host: bool) -> None:
        names = linear_names(base.model)
        self.model = StackedModel(base.model, names, slots=slots, rank=8, dtype=dtype)
        self.batcher = Batcher(self.model, Pool(self.model.table, base.hidden_size), deterministic=host)
        self.folders = folders

    async def ask(self, number: int, ids: list[int], *, alone: bool) -> Tensor:
        folder = self.folders[number]
        async with self.batcher.held(f"f{number}", folder.digest, partial(same, folder), 1e12) as slot:
            (answer,) = await self.batcher.answers(f"f{number}", slot, [ids], 1e12, alone=alone)
            return torch.cat([answer.vector, answer.logits])

    async def found(self, *, alone: bool) -> list[Tensor]:
        """The row's answers: by itself, then among neighbours."""
        lot = random.Random(5)
        answers = [await self.ask(0, TEXT, alone=alone)]
        for _ in range(12):
            others = [
                self.ask(lot.randrange(len(self.folders)), [lot.randrange(5, 24)] * lot.randrange(1, 40), alone=False)
                for _ in range(lot.randrange(1, 40))
            ]
            lot.shuffle(others)
            answer, *_ = await asyncio.gather(self.ask(0, TEXT, alone=alone), *others)
            answers.append(answer)
        return answers


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("host", [True, False])
def test_an_answer_that_is_computed_alone_is_the_same_to_the_bit_in_any_mixture(
    tiny: Base, make_adapter: Any, dtype: torch.dtype, host: bool
) -> None:
    folders = [make_adapter(seed)[0] for seed in range(5)]
    one = Mixed(tiny, folders, slots=3, dtype=dtype, host=host)
    other = Mixed(again(tiny), folders, slots=6, dtype=dtype, host=host)
    first = asyncio.run(one.found(alone=not host))
    second = asyncio.run(other.found(alone=not host))
    assert all(torch.equal(each, first[0]) for each in [*first, *second])
    assert one.model.forwards > 13, "they were computed together"


def test_where_neighbours_show_the_test_above_would_fail(
    tiny: Base, make_adapter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether they show by themselves is the processor's affair: some kernels add in one order whatever the shape."""
    plain = StackedModel.vectors

    def shaken(self: StackedModel, input_ids: Tensor, mask: Tensor, slots: list[int]) -> Tensor:
        return plain(self, input_ids, mask, slots) * (1 + 1e-6 * (len(slots) + input_ids.shape[1]))

    monkeypatch.setattr(StackedModel, "vectors", shaken)
    folders = [make_adapter(seed)[0] for seed in range(5)]
    mixed = Mixed(tiny, folders, slots=5, dtype=torch.float32, host=False)
    together = asyncio.run(mixed.found(alone=False))
    assert not all(torch.equal(each, together[0]) for each in together)
    alone = asyncio.run(Mixed(again(tiny), folders, slots=5, dtype=torch.float32, host=False).found(alone=True))
    assert all(torch.equal(each, alone[0]) for each in alone)
