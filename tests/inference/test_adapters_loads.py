"""Adapters on their way into slots: read once, one of each customer in turn, none left behind; counted, not timed."""

import asyncio
import threading
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from inference.adapters.answering import answered
from inference.adapters.batcher import Batcher
from inference.adapters.flows import Flows, Overloaded, Turns
from inference.adapters.folder import AdapterFolder, FolderRefused, bare
from inference.adapters.pool import Pool
from inference.adapters.stacked import StackedModel
from inference.engine.base_models import Base
from inference.engine.heads import linear_names
from inference.ingress import _rendered
from tests.inference.adapter_world import again
from tests.inference.waiting import until

ROW = [[5, 6, 7]]


class Panic(BaseException):
    """What a library of another language raises where it breaks."""


class Rig:
    """A batcher over few slots, with adapters that change nothing; forwards wait for leave where they are told to."""

    def __init__(self, base: Base, slots: int, memory_mb: int = 64) -> None:
        self.model = StackedModel(base.model, linear_names(base.model), slots=slots, rank=4)
        self.pool = Pool(self.model.table, base.hidden_size, memory_mb=memory_mb)
        self.batcher = Batcher(self.model, self.pool)
        self.reads: Counter[str] = Counter()
        self._leave: threading.Semaphore | None = None
        self.begun = threading.Event()
        """A forward is at the gate."""
        self._vectors = self.model.vectors
        self._answer, self._given = self.batcher._answer, 0
        self.batcher._answer = self._counted  # type: ignore[method-assign]

    async def _counted(self, batch: Any) -> None:
        await self._answer(batch)
        self._given += 1

    def fetch(self, digest: str) -> AdapterFolder:
        self.reads[digest] += 1
        return bare(digest, 32)

    async def ask(self, flow: str, number: int, rows: int = 1, deadline_s: float = 60.0) -> Any:
        digest = digest_of(number)
        return await self.batcher.rows(flow, digest, partial(self.fetch, digest), ROW * rows, deadline_s)

    def gate(self) -> None:
        """From now on a forward begins only when the test lets it."""
        leave = self._leave = threading.Semaphore(0)

        def gated(*asked: Any) -> Any:
            self.begun.set()
            assert leave.acquire(timeout=60)
            return self._vectors(*asked)

        self.model.vectors = gated  # type: ignore[assignment,method-assign]

    def open(self) -> None:
        """Forwards need no leave any more."""
        self.model.vectors = self._vectors  # type: ignore[method-assign]
        if self._leave is not None:
            self._leave.release(1000)

    async def forward(self) -> None:
        """Lets one forward through, once every adapter that can be loaded is."""
        loads, before = self.batcher._loads, self._given
        while loads._turns.at_work != len(loads._slotless):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        assert self._leave is not None
        self._leave.release()
        while self._given == before:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        for _ in range(10):  # whoever was answered gives his slot back
            await asyncio.sleep(0)


def digest_of(number: int) -> str:
    return f"sha256:{number:064x}"


def test_who_is_quiet_waits_for_at_most_three_forwards_of_a_flood_of_cold_adapters(tiny: Base) -> None:
    """One under way, one that ends with his loader free, one begun by whoever was loaded first with him."""
    rig = Rig(tiny, slots=8)

    async def story() -> int:
        rig.gate()
        flood = [asyncio.create_task(rig.ask("loud", 1 + n % 80, rows=3)) for n in range(400)]
        for _ in range(3):
            await asyncio.sleep(0)
            await rig.forward()
        quiet, before = asyncio.create_task(rig.ask("quiet", 99)), rig.model.forwards
        while not quiet.done():
            await rig.forward()
        waited = rig.model.forwards - before - 1
        for task in flood:
            task.cancel()
        rig.open()
        await asyncio.gather(*flood, return_exceptions=True)
        return waited

    assert asyncio.run(story()) <= 3


def test_who_comes_where_every_slot_is_asked_for_without_a_pause_gets_one(tiny: Base) -> None:
    """Of two busy adapters one gives its slot to the newcomer, and comes back into it."""
    rig = Rig(tiny, slots=2)

    async def busy(number: int) -> None:
        while True:
            await rig.ask(f"busy {number}", number)

    async def story() -> int:
        rig.gate()
        tasks = [asyncio.create_task(busy(number % 2)) for number in range(6)]
        for _ in range(5):
            await asyncio.sleep(0)
            await rig.forward()
        newcomer, before = asyncio.create_task(rig.ask("new", 9)), rig.model.forwards
        while not newcomer.done():
            await asyncio.sleep(0)
            await rig.forward()
        waited = rig.model.forwards - before - 1
        for task in tasks:
            task.cancel()
        rig.open()
        await asyncio.gather(*tasks, return_exceptions=True)
        for number in (0, 1, 9):
            await rig.ask("after", number)
        return waited

    assert asyncio.run(story()) <= 3
    assert (rig.pool.idle, rig.reads) == (2, {digest_of(number): 1 for number in (0, 1, 9)})


async def asking(rig: Rig, number: int, answers: Counter[int], rows: int = 1) -> None:
    """One client without a pause; 2 seconds are its patience."""
    while True:
        with suppress(Overloaded):
            await rig.ask(f"f{number}", number, rows, deadline_s=2.0)
            answers[number] += 1


def test_slots_change_hands_no_more_once_nobody_waits_for_one(tiny: Base) -> None:
    """Their users end in different forwards, so that a slot is never idle."""
    rig, answers, seated = Rig(tiny, slots=4), Counter[int](), list[str]()
    seat = rig.pool.seat

    def counted(number: int, packed: Any, generation: int, *, pins: int) -> Any:
        seated.append(packed.digest)
        return seat(number, packed, generation, pins=pins)

    rig.pool.seat = counted  # type: ignore[method-assign]

    async def story() -> int:
        tasks = [asyncio.create_task(asking(rig, number % 4, answers, 20 + 7 * number)) for number in range(8)]
        await until(lambda: len(answers) == 4)
        await rig.ask("new", 9)
        await until(lambda: len(rig.pool) == 4 and not rig.batcher._loads._arrivals)
        before, given = len(seated), rig._given
        await until(lambda: rig._given > given + 40)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return len(seated) - before

    assert asyncio.run(story()) <= 4
    assert (rig.pool.leaving, rig.pool.idle) == (0, 4)


@pytest.mark.parametrize(("slots", "adapters"), [(1, 2), (2, 4)])
def test_more_busy_adapters_than_slots_take_turns(tiny: Base, slots: int, adapters: int) -> None:
    rig, answers = Rig(tiny, slots=slots), Counter[int]()

    async def story() -> None:
        tasks = [asyncio.create_task(asking(rig, number % adapters, answers)) for number in range(3 * adapters)]
        await until(lambda: min(answers[number] for number in range(adapters)) > 5)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(story())
    assert (rig.pool.leaving, rig.pool.idle) == (0, slots)


@pytest.mark.parametrize("error", [RuntimeError("out of order"), Panic("a panic")])
def test_whatever_breaks_in_a_forward_everybody_is_answered(tiny: Base, error: BaseException) -> None:
    rig = Rig(tiny, slots=4)

    def breaks(*_: Any) -> Any:
        raise error

    async def story() -> Any:
        asked = [rig.ask(f"f{number}", number) for number in range(3)]
        return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 60)

    rig.model.vectors = breaks  # type: ignore[assignment,method-assign]
    assert asyncio.run(story()) == [error] * 3
    assert (rig.pool.leaving, rig.pool.idle) == (0, 4)


def test_a_broken_alarm_costs_nobody_his_answer(tiny: Base) -> None:
    rig = Rig(tiny, slots=4)

    def broken(message: str) -> None:
        raise OSError(f"no room for {message}")

    async def story() -> list[str]:
        await rig.ask("f", 8)
        rig.model.table.digests = lambda slots: [digest_of(8)] * len(slots)  # type: ignore[method-assign]
        asked = [rig.ask(f"f{number}", number) for number in range(3)]
        return [found.digest for found, *_ in await asyncio.wait_for(asyncio.gather(*asked), 60)]

    rig.batcher._alarm = broken
    assert asyncio.run(story()) == [digest_of(8)] * 3
    assert (rig.pool.leaving, len(rig.pool), rig.pool.idle) == (0, 1, 4)


def test_what_two_ask_for_does_not_wait_behind_all_that_one_of_them_asks_for(tiny: Base) -> None:
    rig, order = Rig(tiny, slots=64), list[int]()

    async def ask(flow: str, number: int) -> None:
        await rig.ask(flow, number)
        order.append(number)

    async def story() -> None:
        flood = [asyncio.create_task(ask("loud", number)) for number in [*range(1, 41), 50]]
        await asyncio.sleep(0)
        await asyncio.gather(*flood, ask("quiet", 50))

    asyncio.run(story())
    assert rig.reads[digest_of(50)] == 1
    assert order.index(50) < 30, "of 41"


def test_a_row_that_fails_harms_no_other_of_its_batch(tiny: Base) -> None:
    rig = Rig(tiny, slots=8)

    def picky(ids: Any, mask: Any, slots: Any) -> Any:
        if 9 in ids:
            raise IndexError("row out of range")
        return rig._vectors(ids, mask, slots)

    rig.model.vectors = picky  # type: ignore[assignment,method-assign]

    async def story() -> list[Any]:
        rows = [rig.batcher.rows(f"f{n}", digest_of(n), partial(rig.fetch, digest_of(n)), [[5, 6 + (n == 3) * 3]], 60)
                for n in range(6)]  # fmt: skip
        return await asyncio.gather(*rows, return_exceptions=True)

    found = asyncio.run(story())
    assert [type(each) for each in found] == [IndexError if n == 3 else list for n in range(6)]
    assert [each[0].digest for n, each in enumerate(found) if n != 3] == [digest_of(n) for n in range(6) if n != 3]
    assert rig.pool.idle == 8


def test_rows_of_a_request_that_has_failed_are_not_computed(tiny: Base) -> None:
    rig = Rig(tiny, slots=2)

    def broken(*asked: Any) -> Any:
        raise RuntimeError("out of order")

    rig.model.vectors = broken  # type: ignore[assignment,method-assign]

    async def story() -> None:
        with pytest.raises(RuntimeError, match="out of order"):
            await rig.ask("f", 1, rows=500)
        rig.open()
        await rig.ask("g", 2)

    asyncio.run(story())
    assert rig.model.forwards < 4, "500 rows would be eight"
    assert rig.pool.idle == 2


def test_a_slot_stays_in_use_until_its_forward_has_ended_though_everybody_has_left(tiny: Base) -> None:
    rig = Rig(tiny, slots=2)

    async def story() -> None:
        rig.gate()
        asked = asyncio.create_task(rig.ask("f", 1))
        await until(rig.begun.is_set)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert rig.pool.idle == 1
        rig.open()
        await until(lambda: rig.pool.idle == 2)

    asyncio.run(story())


def test_an_adapter_that_many_ask_for_at_once_is_read_once(tiny: Base) -> None:
    rig = Rig(tiny, slots=4)

    async def story() -> None:
        await asyncio.gather(*(rig.ask(f"f{n}", n % 2) for n in range(60)))

    asyncio.run(story())
    assert rig.reads == {digest_of(0): 1, digest_of(1): 1}
    assert rig.pool.idle == 4


def test_an_evicted_adapter_comes_back_from_host_memory_and_beyond_that_from_storage(tiny: Base) -> None:
    rig = Rig(tiny, slots=1)

    asyncio.run(story_of(rig, [0, 1, 0, 1]))
    assert rig.reads == {digest_of(0): 1, digest_of(1): 1}
    small = Rig(again(tiny), slots=1, memory_mb=0)
    asyncio.run(story_of(small, [0, 1, 0]))
    assert small.reads == {digest_of(0): 2, digest_of(1): 1}


async def story_of(rig: Rig, numbers: list[int]) -> None:
    for number in numbers:
        await rig.ask("f", number)


def test_whoever_leaves_while_an_adapter_is_read_leaves_no_slot_in_use(tiny: Base) -> None:
    rig, reading = Rig(tiny, slots=2), threading.Event()

    def slow(digest: str) -> AdapterFolder:
        assert reading.wait(60)
        return bare(digest, 32)

    async def story() -> None:
        asked = [rig.batcher.rows("f", digest_of(n), partial(slow, digest_of(n)), ROW, 60) for n in (1, 1, 2)]
        tasks = [asyncio.create_task(each) for each in asked]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[2].cancel()
        reading.set()
        assert (await tasks[1])[0].digest == digest_of(1)
        while rig.batcher._loads._arrivals:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    asyncio.run(story())
    assert rig.pool.idle == 2


def test_who_finds_no_slot_before_his_deadline_is_told_to_come_again(tiny: Base) -> None:
    rig = Rig(tiny, slots=1)

    async def story() -> None:
        rig.gate()
        first = asyncio.create_task(rig.ask("f", 1))
        while rig.batcher._running is None:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        with pytest.raises(Overloaded, match="could not be loaded before") as late:
            await rig.ask("g", 2, deadline_s=0.05)
        reply = _rendered(answered(late.value))
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        await rig.forward()
        await first
        rig.open()
        assert (await rig.ask("g", 2))[0].digest == digest_of(2)

    asyncio.run(story())
    assert rig.pool.idle == 1


def test_a_read_that_fails_gives_the_loader_and_the_slot_back(tiny: Base) -> None:
    rig = Rig(tiny, slots=1)

    def broken() -> AdapterFolder:
        raise FolderRefused("broken")

    async def story() -> None:
        asked = (rig.batcher.rows("f", digest_of(n), broken, ROW, 60) for n in range(20))
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(each) for each in found} == {FolderRefused}
        await rig.ask("f", 1)

    asyncio.run(story())
    assert (rig.pool.idle, rig.batcher._loads._turns.at_work) == (1, 0)


async def queued(turns: Turns, said: list[str], *flows: str) -> list["asyncio.Task[None]"]:
    """One task of each flow, in this order; each says its flow when its turn comes."""

    async def work(flow: str) -> None:
        async with turns.turn(flow):
            said.append(flow)
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(work(flow)) for flow in flows]
    await asyncio.sleep(0)
    return tasks


def test_turns_go_round_the_flows_and_whoever_leaves_passes_his_on() -> None:
    async def story() -> tuple[list[str], int]:
        turns, said = Turns(1, 10), list[str]()
        tasks = await queued(turns, said, "a", "a", "b", "a", "c")
        tasks[2].cancel()  # while it waits
        await asyncio.gather(*tasks, return_exceptions=True)
        turns.ask("d", asyncio.get_running_loop().create_future())
        tasks = await queued(turns, said, "e", "f")
        turns.over()
        tasks[0].cancel()  # as its turn has come
        await asyncio.gather(*tasks, return_exceptions=True)
        return said, turns.at_work

    assert asyncio.run(story()) == (["a", "a", "c", "a", "f"], 0)


def test_those_who_have_left_cost_their_flow_neither_turns_nor_room() -> None:
    flows: Flows[int] = Flows(6, lambda item: item < 0)
    flows.add("quiet", [-1, -2, 3])
    flows.add("loud", [1, 2])
    with pytest.raises(Overloaded):
        flows.add("loud", [4, 5, 6, 7])
    flows.prune("quiet")
    flows.add("loud", [4, 5])
    flows.add("gone", [-3])
    flows.prune("gone")
    assert len(flows) == 5
    flows.add("gone", [-3])
    assert [flows.take() for _ in range(6)] == [3, 1, 2, 4, 5, None]
    assert len(flows) == 0


def test_what_waits_in_two_flows_takes_one_place() -> None:
    async def story() -> tuple[bool, bool, int]:
        turns, loop = Turns(1, 10), asyncio.get_running_loop()
        first, both, last = (loop.create_future() for _ in range(3))
        turns.ask("a", first)
        turns.ask("a", both)
        turns.ask("b", both)
        turns.ask("c", last)
        turns.over()
        assert both.done()
        assert not last.done()
        turns.over()
        turns.over()
        return both.done(), last.done(), turns.at_work

    assert asyncio.run(story()) == (True, True, 0)


def test_a_flow_that_fills_the_room_keeps_nobody_out() -> None:
    flows: Flows[int] = Flows(100)
    flows.add("loud", list(range(100)))
    with pytest.raises(Overloaded, match="100 of them yours"):
        flows.add("loud", [1])
    flows.add("quiet", list(range(50)))
    with pytest.raises(Overloaded, match="50 of them yours; at most 100 may, 50 yours"):
        flows.add("quiet", [1])
    flows.add("third", list(range(33)))
