"""Stacked adapters answer as peft does one by one; a batch mixes customers freely; identity travels with weights."""

import asyncio
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.adapters.batcher import Batcher
from inference.adapters.flows import Overloaded
from inference.adapters.folder import FolderRefused
from inference.adapters.pool import NoSlotFree, Pool
from inference.adapters.pooling import mean_pooled
from inference.adapters.stacked import StackedModel, groups
from inference.engine.base_models import Base, load_base
from inference.engine.batches import padded
from inference.engine.heads import linear_names
from inference.engine.precision import device

NAMES = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")


def stacked(base: Base, slots: int = 8) -> tuple[StackedModel, Pool]:
    model = StackedModel(base.model, linear_names(base.model), slots=slots, rank=8)
    return model, Pool(model.table, base.hidden_size)


def _same(folder: Any) -> Any:
    return folder


def one_by_one(peft_model: Any, head: torch.nn.Linear, ids: list[int]) -> torch.Tensor:
    input_ids, mask = (each.to(device()) for each in padded([ids]))
    with torch.no_grad():
        hidden = peft_model(input_ids=input_ids, attention_mask=mask).last_hidden_state
        logits: torch.Tensor = head(mean_pooled(hidden, mask).cpu())
        return logits[0]


@pytest.mark.slow
@given(
    shapes=st.lists(st.tuples(st.integers(1, 8), st.integers(2, 5), st.sets(st.sampled_from(NAMES), min_size=1)),
                    min_size=1, max_size=5),
    rows=st.lists(st.tuples(st.integers(0, 99), st.lists(st.integers(5, 20), min_size=1, max_size=12)),
                  min_size=1, max_size=6),
)  # fmt: skip
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mixed_batch_equals_peft_one_by_one(
    make_adapter: Any, tiny_folder: Any, tiny_offer: Any, shapes: Any, rows: Any
) -> None:
    base = load_base(tiny_offer, tiny_folder)
    full = linear_names(base.model)
    model, pool = stacked(base)
    made = [
        make_adapter(seed, rank=rank, classes=classes, targets=[n for n in full if n.endswith(tuple(parts))])
        for seed, (rank, classes, parts) in enumerate(shapes)
    ]
    slots = [pool.pin(folder.digest, partial(_same, folder)).number for folder, _, _ in made]
    chosen = [which % len(made) for which, _ in rows]
    vectors = model.vectors(*padded([ids for _, ids in rows]), [slots[which] for which in chosen])
    for vector, which, (_, ids) in zip(vectors, chosen, rows, strict=True):
        _, peft_model, head = made[which]
        found = model.table.content(slots[which]).logits(vector)
        torch.testing.assert_close(found, one_by_one(peft_model, head, ids), rtol=1e-5, atol=1e-5)


def test_layers_that_read_the_same_input_are_multiplied_together() -> None:
    model = torch.nn.Module()
    model.first, model.other = torch.nn.Module(), torch.nn.Module()
    for layer, memory in ((model.first, 4), (model.other, 6)):  # of the other key and value read something else
        layer.query, layer.output = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        layer.key, layer.value = torch.nn.Linear(memory, 4), torch.nn.Linear(memory, 4)
    names = ["first.query", "first.key", "first.value", "first.output", "other.query", "other.key", "other.value"]
    assert groups(names, model) == [
        ["first.query", "first.key", "first.value"], ["first.output"], ["other.query"], ["other.key", "other.value"],
    ]  # fmt: skip


@pytest.mark.slow
def test_32_requests_for_32_adapters_make_at_most_two_forwards(tiny: Base, make_adapter: Any) -> None:
    model, pool = stacked(tiny, slots=32)
    folders = [make_adapter(seed)[0] for seed in range(32)]

    async def ask() -> list[Any]:
        batcher = Batcher(model, pool)
        for folder in folders:
            await batcher.load(folder.digest, partial(_same, folder), 5)
        asked = [batcher.rows(f"flow {n}", f.digest, partial(_same, f), [[5, 6, 7]], 5) for n, f in enumerate(folders)]
        return await asyncio.gather(*asked)

    answers = asyncio.run(ask())
    assert model.forwards <= 2
    assert [answer[0].digest for answer in answers] == [folder.digest for folder in folders]


def test_swapped_slots_answer_with_the_digest_of_the_weights_that_computed(tiny: Base, make_adapter: Any) -> None:
    model, pool = stacked(tiny)
    (one, *_), (two, *_) = make_adapter(1), make_adapter(2)
    first, second = (pool.pin(folder.digest, partial(_same, folder)) for folder in (one, two))
    rows = model.table.rows
    rows[[first.number, second.number]] = rows[[second.number, first.number]]
    vector = model.vectors(*padded([[5, 6]]), [first.number])
    assert model.table.digest(first.number) == two.digest
    swapped = model.table.content(first.number).logits(vector[0])
    fresh, fresh_pool = stacked(load_base_like(tiny))
    slot = fresh_pool.pin(two.digest, lambda: two).number
    (vector,) = fresh.vectors(*padded([[5, 6]]), [slot])
    torch.testing.assert_close(swapped, fresh.table.content(slot).logits(vector))


def load_base_like(base: Base) -> Base:
    from transformers import BertModel

    model: Any = BertModel.from_pretrained(base.tokenizer.name_or_path)
    model.to(device())
    model.train(False)
    return Base(base.id, base.revision, model, base.tokenizer)


def test_weights_that_change_without_their_stamp_are_found_and_emptied(tiny: Base, make_adapter: Any) -> None:
    model, pool = stacked(tiny)
    folder = make_adapter(1)[0]
    slot = pool.pin(folder.digest, lambda: folder)
    pool.unpin(slot)
    assert pool.scrub() is None
    model.table.rows[slot.number, 33] += 1.0
    assert pool.scrub() == folder.digest
    assert len(pool) == 0


def test_the_least_recently_used_adapter_leaves_and_a_pinned_one_stays(tiny: Base, make_adapter: Any) -> None:
    model, pool = stacked(tiny, slots=2)
    folders = [make_adapter(seed)[0] for seed in range(3)]
    pinned = pool.pin(folders[0].digest, lambda: folders[0])
    pool.unpin(pool.pin(folders[1].digest, lambda: folders[1]))
    last = pool.pin(folders[2].digest, lambda: folders[2])
    assert model.table.digest(pinned.number) == folders[0].digest
    assert (last.generation, model.table.digest(last.number)) == (2, folders[2].digest)
    with pytest.raises(NoSlotFree):
        pool.pin(folders[1].digest, lambda: folders[1])


def test_bytes_of_another_model_are_refused_and_the_slot_stays_free(tiny: Base, make_adapter: Any) -> None:
    _, pool = stacked(tiny)
    (one, *_), (two, *_) = make_adapter(1), make_adapter(2)
    with pytest.raises(FolderRefused, match="asked for"):
        pool.pin(one.digest, lambda: two)
    assert len(pool) == 0


def test_an_adapter_of_too_high_a_rank_is_refused_and_its_slot_is_free_again(tiny: Base, make_adapter: Any) -> None:
    _, pool = stacked(tiny, slots=1)
    wide, good = make_adapter(1, rank=16)[0], make_adapter(2)[0]
    with pytest.raises(FolderRefused, match="rank 16"):
        pool.pin(wide.digest, lambda: wide)
    assert pool.pin(good.digest, lambda: good).generation == 1


def test_a_flood_of_one_flow_does_not_starve_another(tiny: Base, make_adapter: Any) -> None:
    model, pool = stacked(tiny)
    folder = make_adapter(1)[0]

    async def ask() -> tuple[int, int]:
        batcher = Batcher(model, pool)
        flood = asyncio.ensure_future(batcher.rows("flood", folder.digest, lambda: folder, [[5, 6]] * 2000, 60))
        await asyncio.sleep(0.02)
        before = model.forwards
        await batcher.rows("quiet", folder.digest, lambda: folder, [[5, 6]], 60)
        waited = model.forwards - before
        await flood
        return waited, model.forwards

    waited, total = asyncio.run(ask())
    assert total >= 2000 // 64
    assert waited <= total // 2, "a few pass while the quiet one's slot is found; behind the flood it were all"


def test_more_rows_than_may_wait_are_refused_and_none_is_dropped(tiny: Base, make_adapter: Any) -> None:
    model, pool = stacked(tiny)
    folder = make_adapter(1)[0]

    async def ask() -> None:
        batcher = Batcher(model, pool)
        with pytest.raises(Overloaded, match="may"):
            await batcher.rows("flow", folder.digest, lambda: folder, [[5]] * 3000, 5)
        answers = await batcher.rows("flow", folder.digest, lambda: folder, [[5]] * 200, 60)
        assert len(answers) == 200

    asyncio.run(ask())


def test_a_row_past_its_deadline_is_refused(tiny: Base, make_adapter: Any) -> None:
    model, pool = stacked(tiny)
    folder = make_adapter(1)[0]

    async def ask() -> None:
        batcher = Batcher(model, pool)
        await batcher.load(folder.digest, lambda: folder, 5)
        with pytest.raises(Overloaded, match="deadline"):
            await batcher.rows("flow", folder.digest, lambda: folder, [[5]], -1.0)

    asyncio.run(ask())
