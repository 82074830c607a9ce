"""Asks the data plane for a chunk's rows, few at a time; rows that it cannot read are found and told, others go on."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tilth.batches.items import Item
from tilth.batches.lines import Lines, Row
from tilth.batches.pace import Pace
from tilth.batches.states import Endpoint
from tilth.batches.targets import Target
from tilth.contract.messages import EmbedReply, EmbedRequest, ModelRef, PredictReply, PredictRequest
from tilth.core.errors import Invalid, TilthError, Unavailable
from tilth.dataplane.grants import Grants
from tilth.dataplane.port import DataPlane, DataPlaneDown, DataPlaneRefused
from tilth.serving.loader import model_ref

DEADLINE_MS = 30_000
OF_THE_MODEL = frozenset({"model_refused", "model_missing", "no_such_base", "no_encoder", "seal_broken"})
"""Refusals that every row would meet."""
OURS = frozenset({"no_such_route", "grant_refused"})

log = logging.getLogger(__name__)

Found = Row | TilthError


@dataclass(frozen=True)
class Answers:
    """Of a chunk: its lines for the files, and what is billed: only rows of lines that were answered whole."""

    content: bytes
    completed: int
    failed: int
    rows: int
    tokens: int


class Answerer:
    """Safe to share between threads."""

    def __init__(self, plane: DataPlane, grants: Grants) -> None:
        self._plane = plane
        self._grants = grants
        self._paces: defaultdict[str, Pace] = defaultdict(Pace)
        """By what answers: hosts differ in speed."""

    def answer(
        self, items: Sequence[Item], lines: Lines, flow: str, target: Target, going_on: Callable[[], None]
    ) -> Answers:
        """All of them, in order. ``going_on`` is called before each call and raises what should end the work.

        Raises DataPlaneDown and other Unavailable for what is worth another try.
        """
        ask = self._asker(lines.endpoint, flow, target)
        rows = [row for item in items for row in item.inputs]
        found: list[Found] = []
        pace = self._paces[target.host]
        while len(found) < len(rows):
            going_on()
            part, began = rows[len(found) : len(found) + pace.rows], time.monotonic()
            found += _each(ask, part)
            pace.took(len(part), time.monotonic() - began)
        return _composed(items, lines, iter(found))

    def _asker(self, endpoint: str, flow: str, target: Target) -> Callable[[Sequence[Any]], list[Row]]:
        """One call of the data plane for some rows."""
        ref = model_ref(target.served, self._grants) if target.served else None
        if endpoint == Endpoint.EMBEDDINGS:
            return lambda texts: self._embedded(flow, target, ref, tuple(texts))
        if ref is None:
            raise ValueError(f"a batch of predictions has no model behind {target.base_model}")
        return lambda rows: self._predicted(flow, target, ref, tuple(rows))

    def _predicted(self, flow: str, target: Target, ref: ModelRef, rows: tuple[Any, ...]) -> list[Row]:
        asked = PredictRequest(flow=flow, model=ref, inputs=rows, deadline_ms=DEADLINE_MS)
        reply = self._plane.predict(asked)
        return _rows(reply, target, reply.predictions, len(rows))

    def _embedded(self, flow: str, target: Target, ref: ModelRef | None, texts: tuple[str, ...]) -> list[Row]:
        asked = EmbedRequest(
            flow=flow, base_model=target.base_model, model=ref, texts=texts, deadline_ms=DEADLINE_MS
        )  # fmt: skip
        reply = self._plane.embed(asked)
        return _rows(reply, target, reply.vectors, len(texts))


def all_refused(items: Sequence[Item], lines: Lines, error: TilthError) -> Answers:
    """Nothing can answer any of them."""
    refused = [lines.refused(item, _own(item) or error) for item in items]
    return Answers(b"".join(refused), 0, len(items), 0, 0)


def _each(ask: Callable[[Sequence[Any]], list[Row]], rows: Sequence[Any]) -> list[Found]:
    """What becomes of each row: a refused call is halved until the rows at fault stand alone."""
    try:
        return list(ask(rows))
    except DataPlaneRefused as error:
        if error.reason in OURS:
            raise DataPlaneDown(error.message) from error
        if len(rows) == 1 or error.reason in OF_THE_MODEL:
            return [Invalid(error.message, code=error.reason, param="inputs")] * len(rows)
    half = len(rows) // 2
    return [*_each(ask, rows[:half]), *_each(ask, rows[half:])]


def _rows(reply: PredictReply | EmbedReply, target: Target, values: Sequence[Any], asked: int) -> list[Row]:
    """Raises Unavailable for another model's answer, and for one that miscounts: neither is shown or billed."""
    if reply.digest != target.digest:
        log.critical("ALARM: a batch asked for %s and %s answered", target.digest, reply.digest)
        raise Unavailable("Another model answered; its answer was thrown away.", code="digest_mismatch")
    tokens = reply.tokens or (0,) * asked
    if not len(values) == len(tokens) == reply.usage.rows == asked or sum(tokens) != reply.usage.tokens:
        log.error("%s rows of a batch were told as %s with %s token counts", asked, reply.usage, len(reply.tokens))
        raise DataPlaneDown("the data plane miscounted the rows of a batch")
    return [Row(value, count) for value, count in zip(values, tokens, strict=True)]


def _composed(items: Sequence[Item], lines: Lines, found: Iterator[Found]) -> Answers:
    """The lines of each item; of one with several rows the first that is refused tells why."""
    content: list[bytes] = []
    completed = rows = tokens = 0
    for item in items:
        own = [next(found) for _ in item.inputs]
        error = _own(item) or next((each for each in own if isinstance(each, TilthError)), None)
        if error is not None:
            content.append(lines.refused(item, error))
            continue
        answered = [each for each in own if isinstance(each, Row)]
        content.append(lines.answered(item, answered))
        completed, rows = completed + 1, rows + len(answered)
        tokens += sum(each.tokens for each in answered)
    return Answers(b"".join(content), completed, len(items) - completed, rows, tokens)


def _own(item: Item) -> Invalid | None:
    """What was found wrong with a line when it was read."""
    return Invalid(**item.error) if item.error else None
