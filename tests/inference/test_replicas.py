"""Rendezvous hashing spreads evenly and moves little; a replica that dies loses its own keys, and gets them back."""

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilth.contract.messages import EmbedRequest

from inference import replicas
from inference.exchange import Incoming, Mailbox, Outgoing
from inference.faults import Faulty
from inference.replicas import Replica, Replicas, ranked
from inference.settings import settings as read
from tests.inference.waiting import until

KEYS = [f"sha256:{number:064x}" for number in range(3000)]
NAMES = st.lists(st.from_regex(r"[a-z0-9-]{1,12}", fullmatch=True), min_size=1, max_size=8, unique=True)
FUZZED = settings(derandomize=True, database=None, deadline=None, max_examples=100)


@FUZZED
@given(names=NAMES, key=st.text(max_size=80))
def test_a_rank_holds_every_name_once_whatever_their_order(names: list[str], key: str) -> None:
    assert sorted(ranked(key, names)) == sorted(names)
    assert ranked(key, reversed(names)) == ranked(key, names)


@FUZZED
@given(names=NAMES, key=st.text(max_size=80), data=st.data())
def test_without_one_name_the_others_keep_their_order(names: list[str], key: str, data: st.DataObject) -> None:
    lost = data.draw(st.sampled_from(names))
    assert ranked(key, [name for name in names if name != lost]) == [n for n in ranked(key, names) if n != lost]


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_keys_spread_evenly_and_so_do_those_that_move(count: int) -> None:
    """Four standard deviations of a binomial; a fixed set of keys, so it cannot fail by chance."""
    names = [f"host-{number}" for number in range(count)]
    firsts = Counter(ranked(key, names)[0] for key in KEYS)
    assert set(firsts) == set(names)
    assert all(abs(held - len(KEYS) / count) < 4 * deviation(len(KEYS), count) for held in firsts.values())
    moved = [ranked(key, names)[1] for key in KEYS if ranked(key, names)[0] == names[0]]
    nexts = Counter(moved)
    assert set(nexts) == set(names[1:])
    assert all(abs(n - len(moved) / (count - 1)) <= 4 * deviation(len(moved), count - 1) for n in nexts.values())


def deviation(keys: int, names: int) -> float:
    return float((keys / names * (1 - 1 / names)) ** 0.5)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_one_more_replica_takes_only_its_own_share(count: int) -> None:
    names = [f"host-{number}" for number in range(count + 1)]
    before = {key: ranked(key, names[:-1])[0] for key in KEYS}
    moved = {key: ranked(key, names)[0] for key in KEYS if ranked(key, names)[0] != before[key]}
    assert set(moved.values()) == {names[-1]}
    assert abs(len(moved) - len(KEYS) / (count + 1)) < 4 * deviation(len(KEYS), count + 1)


def test_every_process_ranks_alike() -> None:
    """Python's own hash of a text differs from process to process."""
    code = "from inference.replicas import ranked; print(*(ranked(str(k), 'abcdefgh') for k in range(50)))"
    said = set()
    for seed in ("1", "2"):
        env = os.environ | {"PYTHONHASHSEED": seed}
        said.add(subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True).stdout)
    assert said == {" ".join(str(ranked(str(k), "abcdefgh")) for k in range(50)).encode() + b"\n"}


class Died(Exception):
    """What Ray's handle raises when the actor's process has died."""


class Handle:
    """Stands for Serve's handle: while its process is away a call waits for the next one, as Serve's router does."""

    def __init__(self, name: str) -> None:
        self.name, self.asked = name, 0
        self.hung = False
        self.slow_s = 0.0
        self._up = asyncio.Event()
        self._up.set()
        self._deaths: list[asyncio.Future[None]] = []
        self._mailbox = Mailbox(self)
        self.answering = 0
        self.exchange, self.stay = Method(self._exchange), Method(self._stay)

    def kill(self) -> None:
        """Whoever is being answered hears it; whoever comes later waits."""
        self._up.clear()
        deaths, self._deaths = self._deaths, []
        for death in deaths:
            death.set_exception(Died())

    def start(self) -> None:
        self.hung, self._mailbox = False, Mailbox(self)
        self._up.set()

    async def embed(self, message: Any) -> Any:
        self.asked += 1
        self.answering += 1
        try:
            await asyncio.sleep(self.slow_s)
        finally:
            self.answering -= 1
        return self.name

    async def _exchange(self, call: Outgoing) -> Incoming:
        await self._up.wait()
        came: Incoming = await self._living(self._mailbox.exchange(call))
        return came

    async def _stay(self, seconds: float) -> None:
        await self._up.wait()
        await self._living(asyncio.sleep(seconds))

    async def _living(self, work: Coroutine[Any, Any, Any]) -> Any:
        death = asyncio.get_running_loop().create_future()
        self._deaths.append(death)
        doing = asyncio.ensure_future(work)
        try:
            await asyncio.wait({death} if self.hung else {death, doing}, return_when=asyncio.FIRST_COMPLETED)
            return death.result() if death.done() else doing.result()
        finally:
            doing.cancel()
            self._deaths.remove(death) if death in self._deaths else None


class Method:
    """Of a handle."""

    def __init__(self, does: Callable[[Any], Any]) -> None:
        self.remote = does


class House:
    """Three replicas of one host, watched as in the ingress."""

    def __init__(self) -> None:
        self.handles = {name: Handle(name) for name in ("host-0", "host-1", "host-2")}
        members = {name: Replica(name, handle, (Died,)) for name, handle in self.handles.items()}
        self.members, self.replicas = members, Replicas(members.values())

    async def ask(self, key: str) -> Any:
        return await self.replicas.ask("embed", key, EmbedRequest(flow="f", base_model="b", texts=("x",)))

    async def answers(self) -> dict[str, str]:
        """Key → who answers, for a hundred keys."""
        return {key: await self.ask(key) for key in KEYS[:100]}

    async def sees(self, name: str, *, here: bool) -> None:
        await until(lambda: self.members[name].here is here)


BEAT_S, PATIENCE_S = 0.02, 0.05


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(replicas, "BEAT_S", BEAT_S)
    made = House()
    made.replicas.watch(PATIENCE_S)
    yield made
    for task in made.replicas._watching:
        task.cancel()


def first(key: str, *without: str) -> str:
    return next(name for name in ranked(key, ["host-0", "host-1", "host-2"]) if name not in without)


async def test_each_key_is_answered_by_the_first_in_its_rank_and_by_nobody_else(house: House) -> None:
    assert await house.answers() == {key: first(key) for key in KEYS[:100]}
    assert sum(handle.asked for handle in house.handles.values()) == 100


async def test_a_dead_replicas_keys_move_to_the_next_and_come_back_with_it(house: House) -> None:
    house.handles["host-1"].kill()
    await house.sees("host-1", here=False)
    assert await house.answers() == {key: first(key, "host-1") for key in KEYS[:100]}
    house.handles["host-1"].start()
    await house.sees("host-1", here=True)
    assert await house.answers() == {key: first(key) for key in KEYS[:100]}


@pytest.mark.parametrize("error", [RuntimeError("no such replica"), asyncio.CancelledError()])
async def test_whatever_is_said_of_a_replica_that_does_not_stay_the_watch_goes_on(
    house: House, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    async def refuses(seconds: float) -> None:
        raise error

    handle = house.handles["host-1"]
    stay = handle.stay.remote
    monkeypatch.setattr(handle.stay, "remote", refuses)
    await house.sees("host-1", here=False)
    assert await house.answers() == {key: first(key, "host-1") for key in KEYS[:100]}
    monkeypatch.setattr(handle.stay, "remote", stay)
    await house.sees("host-1", here=True)
    assert await house.answers() == {key: first(key) for key in KEYS[:100]}


async def test_a_question_under_way_when_its_replica_dies_goes_to_the_next(house: House) -> None:
    key = KEYS[0]
    house.handles[first(key)].slow_s = 60.0
    asked = asyncio.create_task(house.ask(key))
    await asyncio.sleep(2 * BEAT_S)
    house.handles[first(key)].kill()
    assert await asyncio.wait_for(asked, 5) == first(key, first(key))


async def test_a_question_that_serve_would_keep_for_the_next_process_goes_to_the_next_replica(house: House) -> None:
    """It was put after the death and before anybody knew of it, so nobody tells it."""
    key = KEYS[0]
    house.handles[first(key)].kill()
    assert await asyncio.wait_for(house.ask(key), 5) == first(key, first(key))


async def test_a_replica_that_hangs_is_given_up_and_taken_back(house: House) -> None:
    key = KEYS[0]
    house.handles[first(key)].hung = True
    assert await asyncio.wait_for(house.ask(key), 5) == first(key, first(key))
    house.handles[first(key)].kill()
    house.handles[first(key)].start()
    await house.sees(first(key), here=True)
    assert await house.ask(key) == first(key)


async def test_where_none_is_there_the_first_in_rank_is_waited_for(house: House) -> None:
    for name, handle in house.handles.items():
        handle.kill()
        await house.sees(name, here=False)
    asked = asyncio.create_task(house.ask(KEYS[0]))
    await asyncio.sleep(2 * BEAT_S)
    assert not asked.done()
    house.handles[first(KEYS[0])].start()
    assert await asyncio.wait_for(asked, 5) == first(KEYS[0])


async def test_a_question_that_kills_whoever_hears_it_ends_two_replicas_and_no_more(house: House) -> None:
    for handle in house.handles.values():
        handle.slow_s = 60.0
    asked = asyncio.create_task(house.ask(KEYS[0]))
    for _ in range(2):
        await until(lambda: any(handle.asked and handle._up.is_set() for handle in house.handles.values()))
        next(handle for handle in house.handles.values() if handle.asked and handle._up.is_set()).kill()
    answer = await asyncio.wait_for(asked, 5)
    assert isinstance(answer, Faulty)
    assert (answer.status, answer.body.code) == (503, "host_died")
    assert sorted(handle.asked for handle in house.handles.values()) == [0, 1, 1]


async def test_a_caller_who_leaves_takes_the_question_back(house: House) -> None:
    handle = house.handles[first(KEYS[0])]
    handle.slow_s = 60.0
    asked = asyncio.create_task(house.ask(KEYS[0]))
    await until(lambda: handle.asked == 1)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert house.members[first(KEYS[0])].here
    await until(lambda: handle.answering == 0)


async def test_a_single_replica_that_dies_is_told_at_once_and_then_waited_for() -> None:
    handle = Handle("host-0")
    alone = Replicas([Replica("host-0", handle, (Died,))])
    message = EmbedRequest(flow="f", base_model="b", texts=("x",))
    handle.slow_s = 60.0
    asked = asyncio.create_task(alone.ask("embed", "k", message))
    await until(lambda: handle.asked == 1)
    handle.kill()
    assert (await asked).body.code == "host_died"
    handle.slow_s = 0.0
    asked = asyncio.create_task(alone.ask("embed", "k", message))
    await asyncio.sleep(BEAT_S)
    assert not asked.done()
    handle.start()
    assert await asked == "host-0"


def test_no_host_without_a_replica() -> None:
    assert read({"TILTH_HOST_REPLICAS": "3"}).host_replicas == 3
    with pytest.raises(ValueError, match="TILTH_HOST_REPLICAS must be 1 or more, found 0"):
        read({"TILTH_HOST_REPLICAS": "0"})
