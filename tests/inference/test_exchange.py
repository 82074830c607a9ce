"""Questions leave together, answers come back as they are ready, and each reaches whoever asked."""

import asyncio
import random

import pytest

from inference import exchange
from inference.exchange import CALLS, Forgot, HostBroke, Incoming, Line, Mailbox, Outgoing
from tests.inference.waiting import until


class Gone(Exception):
    """What a call raises whose process has died."""


class Panic(BaseException):
    """What a library of another language raises where it breaks."""


class Host:
    """Answers a number of milliseconds with itself, so late; -1 never, -2 with a bug, -3 with a panic."""

    def __init__(self) -> None:
        self.under_way: set[int] = set()

    async def echo(self, message: tuple[int, int]) -> tuple[int, int]:
        name, wait_ms = message
        self.under_way.add(name)
        try:
            if wait_ms == -2:
                raise ZeroDivisionError("a bug")
            if wait_ms == -3:
                raise Panic("a panic")
            await asyncio.sleep(wait_ms / 1000 if wait_ms >= 0 else 3600)
        finally:
            self.under_way.discard(name)
        return message


class Wire:
    """Between a line and a mailbox: counts calls, takes a moment, may break."""

    def __init__(self) -> None:
        self.host = Host()
        self.mailbox = Mailbox(self.host)
        self.calls: list[Outgoing] = []
        self.most = self._open = 0
        self.broken: asyncio.Future[Incoming] = asyncio.get_running_loop().create_future()

    async def remote(self, call: Outgoing) -> Incoming:
        self.calls.append(call)
        self._open += 1
        self.most = max(self.most, self._open)
        try:
            await asyncio.sleep(0.002)
            came, broken = asyncio.ensure_future(self.mailbox.exchange(call)), self.broken
            await asyncio.wait({came, broken}, return_when=asyncio.FIRST_COMPLETED)
            return came.result() if came.done() else broken.result()
        finally:
            self._open -= 1

    def replaced(self, *, heard: bool) -> None:
        """Another process is behind it: the call on its way raises, or had come back just before, with nothing."""
        broken, self.broken = self.broken, asyncio.get_running_loop().create_future()
        former, self.mailbox = self.mailbox, Mailbox(self.host)
        if heard:
            broken.set_exception(Gone())
        else:
            broken.set_result(Incoming(former._name, ()))


@pytest.fixture
async def wire() -> Wire:
    return Wire()


def line(wire: Wire) -> Line:
    return Line(wire.remote, (Gone,))


async def test_each_answer_reaches_its_own_question_in_far_fewer_calls(wire: Wire) -> None:
    lot, asking = random.Random(1), line(wire)

    async def client(name: int) -> None:
        for _ in range(20):
            message = (name, lot.choice([0, 1, 1, 5]))
            assert await asking.ask("echo", message) == message

    await asyncio.wait_for(asyncio.gather(*(client(name) for name in range(40))), 30)
    assert len(wire.calls) < 400, "800 questions"
    assert wire.most <= CALLS


async def test_whoever_asks_hears_of_a_panic(wire: Wire) -> None:
    with pytest.raises(HostBroke, match="a panic"):
        await asyncio.wait_for(line(wire).ask("echo", (1, -3)), 5)


async def test_a_call_that_is_given_up_on_its_way_leaves_nobody_waiting(wire: Wire) -> None:
    async def given_up(call: Outgoing) -> Incoming:
        raise asyncio.CancelledError

    with pytest.raises(Forgot):
        await asyncio.wait_for(Line(given_up, (Gone,)).ask("echo", (1, 0)), 5)


async def test_a_slow_question_keeps_nobody_waiting(wire: Wire) -> None:
    asking = line(wire)
    slow = [asyncio.create_task(asking.ask("echo", (name, -1))) for name in range(5)]
    await asyncio.sleep(0.02)
    for name in range(10, 20):
        assert await asyncio.wait_for(asking.ask("echo", (name, 0)), 5) == (name, 0)
    assert not any(task.done() for task in slow)
    for task in slow:
        task.cancel()


async def test_two_callers_of_a_host_do_not_get_each_others_answers(wire: Wire) -> None:
    lines = [line(wire), line(wire)]
    found = await asyncio.gather(*(each.ask("echo", (at, 2)) for at, each in enumerate(lines)))
    assert found == [(0, 2), (1, 2)]


async def test_who_leaves_takes_the_question_back(wire: Wire) -> None:
    asking = line(wire)
    stays = asyncio.create_task(asking.ask("echo", (1, -1)))
    leaves = asyncio.create_task(asking.ask("echo", (2, -1)))
    await until(lambda: wire.host.under_way == {1, 2})
    leaves.cancel()
    await until(lambda: wire.host.under_way == {1})
    assert not stays.done()
    stays.cancel()


async def test_who_leaves_before_the_call_was_never_asked(wire: Wire) -> None:
    asking = line(wire)
    task = asyncio.create_task(asking.ask("echo", (1, 0)))
    leaves = [asyncio.create_task(asking.ask("echo", (name, 0))) for name in range(2, 9)]
    await asyncio.sleep(0)
    for each in leaves[CALLS:]:
        each.cancel()
    assert await task == (1, 0)
    asked = {question.message[0] for call in wire.calls for question in call.questions}
    assert not asked & set(range(2 + CALLS, 9))


async def test_a_bug_of_the_hosts_is_told_and_harms_no_other(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    asking = line(wire)
    good = asyncio.create_task(asking.ask("echo", (1, 5)))
    with pytest.raises(HostBroke, match="ZeroDivisionError"):
        await asking.ask("echo", (2, -2))
    assert await good == (1, 5)
    assert "ZeroDivisionError" in caplog.text


async def test_whoever_is_being_answered_hears_of_a_death_and_whoever_waits_is_asked_later(wire: Wire) -> None:
    asking = line(wire)
    heard = [asyncio.create_task(asking.ask("echo", (name, -1))) for name in range(3)]
    await until(lambda: len(wire.host.under_way) == 3)
    wire.replaced(heard=True)
    for task in heard:
        with pytest.raises(Gone):
            await task
    assert await asyncio.wait_for(asking.ask("echo", (9, 0)), 5) == (9, 0)


async def test_two_calls_that_die_end_no_question_that_left_after_the_first_was_heard_of(wire: Wire) -> None:
    died: list[asyncio.Future[Incoming]] = []

    async def remote(call: Outgoing) -> Incoming:
        if len(died) == CALLS:
            return await wire.remote(call)
        died.append(asyncio.get_running_loop().create_future())
        return await died[-1]

    asking = Line(remote, (Gone,))
    lost = [asyncio.create_task(asking.ask("echo", (name, 0))) for name in range(CALLS)]
    await until(lambda: len(died) == CALLS)
    later = asyncio.create_task(asking.ask("echo", (9, 20)))
    await asyncio.sleep(0)
    for each in died:
        each.set_exception(Gone())
        await asyncio.sleep(0.005)
    assert await asyncio.wait_for(later, 5) == (9, 20)
    for task in lost:
        with pytest.raises(Gone):
            await task


async def test_another_process_that_answers_ends_the_questions_of_the_former(wire: Wire) -> None:
    """The call that would have raised had come back before the death, so only the next process can tell."""
    asking = line(wire)
    assert await asking.ask("echo", (0, 0)) == (0, 0)
    lost = asyncio.create_task(asking.ask("echo", (1, -1)))
    await until(lambda: wire.host.under_way == {1})
    wire.replaced(heard=False)
    assert await asyncio.wait_for(asking.ask("echo", (2, 0)), 5) == (2, 0)
    with pytest.raises(Forgot):
        await asyncio.wait_for(lost, 5)


async def test_a_caller_that_has_died_is_forgotten_with_its_questions(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = asyncio.create_task(line(wire).ask("echo", (1, -1)))
    await until(lambda: wire.host.under_way == {1})
    monkeypatch.setattr(exchange, "FORGOTTEN_S", 0.0)
    assert await line(wire).ask("echo", (2, 0)) == (2, 0)
    await until(lambda: 1 not in wire.host.under_way)
    task.cancel()
