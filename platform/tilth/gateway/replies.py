"""Answers of the last minutes: a retry gets the first one's, finished or still under way, and is billed nothing."""

import asyncio
import time
from collections import OrderedDict

LIFE_S = 600.0
LARGEST = 32 * 1024 * 1024
"""Bytes of answers kept; the oldest go first."""

Answer = asyncio.Task[bytes]


class Replies:
    """By (key, model's digest, body). Failures are not kept: their retry is tried anew."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, tuple[float, Answer]] = OrderedDict()
        self._bytes = 0

    def find(self, fingerprint: bytes) -> Answer | None:
        """The newest answer to the same request, not older than LIFE_S."""
        ends, answer = self._known.get(fingerprint, (0.0, None))
        return answer if ends > time.monotonic() else None

    def keep(self, fingerprint: bytes, answer: Answer) -> None:
        """From now on, so that a retry that overtakes its first finds it."""
        self._drop(fingerprint)
        self._known[fingerprint] = (time.monotonic() + LIFE_S, answer)
        answer.add_done_callback(lambda done: self._done(fingerprint, done))

    def _done(self, fingerprint: bytes, answer: Answer) -> None:
        if self._known.get(fingerprint, (0.0, None))[1] is not answer:
            return
        if answer.cancelled() or answer.exception():
            del self._known[fingerprint]
            return
        self._bytes += len(answer.result())
        while self._bytes > LARGEST:
            self._drop(next(iter(self._known)))

    def _drop(self, fingerprint: bytes) -> None:
        _, answer = self._known.pop(fingerprint, (0.0, None))
        if answer is not None and answer.done() and not answer.cancelled() and not answer.exception():
            self._bytes -= len(answer.result())
