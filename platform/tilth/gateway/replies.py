"""Answers of the last minutes: a retry gets the first one's, finished or still under way, and is billed nothing."""

import asyncio
import time
from collections import OrderedDict

from tilth.core.errors import Unprocessable

LIFE_S = 600.0
LARGEST = 8 * 1024 * 1024
"""Bytes of answers kept, with what keeping them takes; the oldest go first: under full load after seconds."""
ENTRY = 320
"""Bytes of an entry beside its answer: fingerprint, body's hash, time, their objects and places in the table."""

Answer = asyncio.Task[bytes]
NONE: tuple[float, None, bytes] = (0.0, None, b"")


class Replies:
    """By Idempotency-Key, or by (key, model's digest, body). Failures are not kept: their retry is tried anew.

    This process's own: a retry that another web process gets is a request of its own.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, tuple[float, Answer | bytes, bytes]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    def find(self, fingerprint: bytes, body: bytes) -> Answer | bytes | None:
        """The newest answer to the same request, not older than LIFE_S; a task if it is still being made.

        Raises Unprocessable if ``body`` (a hash) is another than the first one's.
        """
        ends, answer, first = self._known.get(fingerprint, NONE)
        if ends < time.monotonic():
            return None
        if body != first:
            raise Unprocessable("This Idempotency-Key was used for another request; use a fresh one.")
        return answer

    def keep(self, fingerprint: bytes, body: bytes, answer: Answer) -> None:
        """From now on, so that a retry that overtakes its first finds it."""
        self._drop(fingerprint)
        self._forget_old()
        self._known[fingerprint] = (time.monotonic() + LIFE_S, answer, body)
        answer.add_done_callback(lambda done: self._done(fingerprint, done))

    def _done(self, fingerprint: bytes, answer: Answer) -> None:
        """From now on only the bytes are kept: the task holds the request's whole way."""
        ends, known, body = self._known.get(fingerprint, NONE)
        if known is not answer:
            return
        if answer.cancelled() or answer.exception():
            del self._known[fingerprint]
            return
        kept = bytes(memoryview(answer.result()))  # orjson's bytes lie in a block of their first, larger size
        self._known[fingerprint] = (ends, kept, body)
        self._bytes += ENTRY + len(kept)
        while self._bytes > LARGEST:
            self._drop(next(iter(self._known)))

    def _forget_old(self) -> None:
        moment = time.monotonic()
        while self._known and next(iter(self._known.values()))[0] < moment:
            self._drop(next(iter(self._known)))

    def _drop(self, fingerprint: bytes) -> None:
        _, answer, _ = self._known.pop(fingerprint, NONE)
        if isinstance(answer, bytes):
            self._bytes -= ENTRY + len(answer)
