"""Many questions in few calls: an ingress sends all that wait, a host answers with all that is done. No Ray in it.

A call of Serve's takes some 4 ms of processor time at both ends, as much as a row's whole answer. So questions that
arrive while a call is on its way leave together with the next one, and answers of one forward come back in one call.
Nobody waits for a neighbour: a call comes back as soon as anything is done, or when the next call relieves it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

CALLS = 2
"""Of one line on their way: one waits for answers, one brings questions and relieves it."""
FORGOTTEN_S = 300.0
"""A caller that has not called for so long has died; no question lives so long."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """``method`` of the host's with its one argument; ``number`` is unique in a line."""

    number: int
    method: str
    message: Any


@dataclass(frozen=True)
class Outgoing:
    """What one call brings to a host."""

    caller: str
    host: str
    """Whom the caller takes it for, from the last answers; empty if it has heard nobody yet."""
    questions: tuple[Question, ...]
    dropped: tuple[int, ...]
    """Whose callers have left."""


@dataclass(frozen=True)
class Incoming:
    """What comes back: who answers, and by number what is done."""

    host: str
    answers: tuple[tuple[int, Any], ...]


@dataclass(frozen=True)
class Broke:
    """In an answer's place: the host has a bug; what it said."""

    said: str


class HostBroke(RuntimeError):
    """A host raised what is none of its faults."""


class Forgot(Exception):
    """Another process than the one that took the question answers now."""


@dataclass
class Caller:
    """One line's questions at a host."""

    heard: float = field(default_factory=time.monotonic)
    under_way: dict[int, "asyncio.Task[None]"] = field(default_factory=dict)
    done: list[tuple[int, Any]] = field(default_factory=list)
    waits: "asyncio.Future[None] | None" = None
    """The call that will bring the next answers."""

    def relieve(self) -> None:
        """Lets the call that waits go, with what there is."""
        if self.waits is not None and not self.waits.done():
            self.waits.set_result(None)


class Mailbox:
    """A host's end, in front of whatever has the methods that are asked for; all in one event loop."""

    def __init__(self, answers: Any) -> None:
        self._answers = answers
        self._name = uuid4().hex
        self._callers: dict[str, Caller] = {}

    async def exchange(self, call: Outgoing) -> Incoming:
        """Takes the questions; gives what is done as soon as there is anything, or another call waits for it."""
        self._forget()
        caller = self._callers.setdefault(call.caller, Caller())
        caller.heard = time.monotonic()
        caller.relieve()
        for number in call.dropped:
            if task := caller.under_way.pop(number, None):
                task.cancel()
        for question in call.questions:
            task = asyncio.create_task(self._answer(caller, question))
            caller.under_way[question.number] = task
        if not caller.done and call.host in ("", self._name):
            caller.waits = asyncio.get_running_loop().create_future()
            await caller.waits
        answers, caller.done = tuple(caller.done), []
        return Incoming(self._name, answers)

    async def _answer(self, caller: Caller, question: Question) -> None:
        try:
            answer = await getattr(self._answers, question.method)(question.message)
        except asyncio.CancelledError:
            raise
        except BaseException as bug:  # also a panic in a library: whoever asked must hear of it
            log.exception("%s failed", question.method)
            answer = Broke(repr(bug))
        finally:
            caller.under_way.pop(question.number, None)
        caller.done.append((question.number, answer))
        caller.relieve()  # the others of the same forward are done before the call goes on

    def _forget(self) -> None:
        """Drops callers that have died, with their questions."""
        now = time.monotonic()
        for name, caller in list(self._callers.items()):
            if now - caller.heard > FORGOTTEN_S:
                for task in caller.under_way.values():
                    task.cancel()
                caller.relieve()
                del self._callers[name]


class Line:
    """A caller's end: ``remote`` is the host's ``exchange``, ``died`` what it raises where the process has died."""

    def __init__(self, remote: Callable[[Outgoing], Awaitable[Incoming]], died: tuple[type[Exception], ...]) -> None:
        self._remote = remote
        self._died = died
        self._caller = uuid4().hex
        self._host = ""
        self._number = self._sent = 0
        """The highest so far, and the highest that has left."""
        self._waiting: dict[int, Question] = {}
        self._dropped: list[int] = []
        self._asked: dict[int, asyncio.Future[Any]] = {}
        """Every question without an answer, on its way or waiting."""
        self._calls = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, method: str, message: Any) -> Any:
        """The answer; raises what the call raised, Forgot, HostBroke. Cancelled, it takes the question back."""
        self._number += 1
        number, answer = self._number, asyncio.get_running_loop().create_future()
        self._waiting[number], self._asked[number] = Question(number, method, message), answer
        self._send()
        try:
            return await answer
        finally:
            if self._asked.pop(number, None) and not self._waiting.pop(number, None):
                self._dropped.append(number)
                self._send()

    def _send(self) -> None:
        """A call with all that waits, if one may leave."""
        idle = self._asked and not self._calls
        if self._calls >= CALLS or not (self._waiting or self._dropped or idle):
            return
        call = Outgoing(self._caller, self._host, tuple(self._waiting.values()), tuple(self._dropped))
        self._waiting, self._dropped, self._calls = {}, [], self._calls + 1
        before, self._sent = self._sent, self._number
        task = asyncio.get_running_loop().create_task(self._call(call, before, self._sent))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call(self, call: Outgoing, before: int, last: int) -> None:
        """One call; questions up to ``before`` left earlier, those up to ``last`` with it."""
        try:
            came = await self._remote(call)
        except Exception as error:  # whoever asked gets it
            self._host = "" if isinstance(error, self._died) else self._host
            self._fail(error, last)
        except asyncio.CancelledError:  # Serve has given the call up, or the loop ends
            self._fail(Forgot(), last)
            raise
        else:
            self._take(came, before)
        finally:
            self._calls -= 1
            self._send()

    def _take(self, came: Incoming, before: int) -> None:
        if self._host not in ("", came.host):  # the process that had the earlier ones is gone
            self._fail(Forgot(), before)
        self._host = came.host
        for number, answer in came.answers:
            if (asked := self._asked.pop(number, None)) and not asked.done():
                if isinstance(answer, Broke):
                    asked.set_exception(HostBroke(answer.said))
                else:
                    asked.set_result(answer)

    def _fail(self, error: Exception, last: int) -> None:
        """Of questions up to a number: what left later is on its way to whoever is there now."""
        for number in [number for number in self._asked if number <= last]:
            if not (asked := self._asked.pop(number)).done():
                asked.set_exception(error)
