"""No wrong adapter, ever: requests under load while adapters come, go and are replaced, and the host is killed."""

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from inference.adapters.pool import Pool
from inference.adapters.slots import Packed, SlotTable
from inference.engine.base_models import Base, load_base
from tests.inference.adapter_world import CLIENTS, Storm, World, make_world

CUSTOMERS = 64
SLOTS = 20
"""Fewer than adapters, so that most requests find theirs elsewhere."""
NEAR = 1e-5


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On a base this small a second one only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def world(tiny_folder: Any, tiny_offer: Any, place: Any) -> Callable[[int], World]:
    def fresh() -> Base:
        return load_base(tiny_offer, tiny_folder)

    return lambda customers: make_world(fresh(), fresh, place, customers)


def raged(world: World, requests: int, slots: int = SLOTS) -> Storm:
    storm = Storm(world, slots, requests, NEAR, random.Random(7))
    asyncio.run(asyncio.wait_for(storm.rage(), 3000))
    return storm


def check(storm: Storm) -> None:
    assert storm.wrong == []
    assert storm.answered == storm.requests
    assert storm.killed == 4
    assert storm.loaded > 5 * storm.slots, "hardly an adapter was ever evicted"
    assert storm.redeployed > 10


@pytest.mark.slow
def test_no_answer_comes_from_a_wrong_adapter(world: Any) -> None:
    check(raged(world(CUSTOMERS), 3000))


@pytest.mark.slow
@pytest.mark.long
def test_no_answer_of_100_000_comes_from_a_wrong_adapter(world: Any) -> None:
    check(raged(world(CUSTOMERS), 100_000))


@pytest.mark.slow
def test_a_pool_that_empties_slots_in_use_is_found_out(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve = Pool.reserve

    def greedy(pool: Pool) -> int:
        for slot in list(pool._slots.values())[:1]:
            pool._evict(slot)
        return reserve(pool)

    monkeypatch.setattr(Pool, "reserve", greedy)
    assert raged(world(12), 10 * CLIENTS, slots=8).wrong != []


@pytest.mark.slow
def test_a_slot_filled_with_anothers_weights_is_found_out(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fill = SlotTable.fill
    last: list[Packed] = []

    def mistaken(table: SlotTable, number: int, packed: Packed) -> int:
        """Every tenth time the weights of the one before, under this one's stamp."""
        generation = fill(table, number, packed)
        if len(last) % 10 == 9:
            table.rows[number, table._line : table._linears] = last[-1].row[table._line :]
        last.append(packed)
        return generation

    monkeypatch.setattr(SlotTable, "fill", mistaken)
    assert any("off by" in each for each in raged(world(12), 10 * CLIENTS, slots=8).wrong)
