"""The lines of a batch's files: OpenAI's for requests, ``{"line", "prediction", "error"}`` for plain rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from uuid import UUID

import orjson

from tilth.batches.items import Item
from tilth.batches.states import Endpoint
from tilth.contract.messages import Prediction, PredictionUsage
from tilth.core.errors import TilthError
from tilth.core.http import error_body, status_of
from tilth.gateway.answers import embedded, predicted

GOOD, BAD = b"+", b"-"
"""Begins each kept line, so that the end can tell those of the output file from those of the error file."""


@dataclass(frozen=True)
class Row:
    """One row's answer."""

    value: Any
    """A Prediction, or a vector as base64."""
    tokens: int


@dataclass(frozen=True)
class Lines:
    """Of one batch."""

    batch: UUID
    endpoint: str
    model: str
    digest: str

    def answered(self, item: Item, rows: Sequence[Row]) -> bytes:
        """A line that was answered."""
        if item.custom_id is None:
            (only,) = rows
            prediction = only.value.model_dump(exclude_none=True)
            return _kept(GOOD, {"line": item.line, "prediction": prediction, "error": None})
        return _kept(GOOD, self._request(item, HTTPStatus.OK, self._body(item, rows)))

    def refused(self, item: Item, error: TilthError) -> bytes:
        """A line that could not be answered, with the reason."""
        body = error_body(error)
        if item.custom_id is None:
            told = {name: body["error"][name] for name in ("code", "message", "param")}
            return _kept(BAD, {"line": item.line, "prediction": None, "error": told})
        return _kept(BAD, self._request(item, status_of(error), body))

    def left(self, item: Item, code: str, message: str) -> bytes:
        """A line that nobody came to."""
        error = {"code": code, "message": message}
        if item.custom_id is None:
            return _kept(BAD, {"line": item.line, "prediction": None, "error": {**error, "param": None}})
        return _kept(BAD, {**self._named(item), "response": None, "error": error})

    def _request(self, item: Item, status: HTTPStatus, body: dict[str, Any]) -> dict[str, Any]:
        request_id = f"req_{self.batch.hex}_{item.line}"
        response = {"status_code": int(status), "request_id": request_id, "body": body}
        return {**self._named(item), "response": response, "error": None}

    def _named(self, item: Item) -> dict[str, Any]:
        """By an id that is the same however often the line is answered."""
        return {"id": f"batch_req_{self.batch.hex}_{item.line}", "custom_id": item.custom_id}

    def _body(self, item: Item, rows: Sequence[Row]) -> dict[str, Any]:
        """As the same request gets it from the endpoint itself."""
        values, usage = [row.value for row in rows], PredictionUsage(rows=len(rows), tokens=sum(r.tokens for r in rows))
        if self.endpoint == Endpoint.EMBEDDINGS:
            return embedded(self.model, self.digest, values, usage, plain=item.plain)
        predictions: list[Prediction] = values
        return predicted(self.model, self.digest, predictions, usage)


def _kept(mark: bytes, line: dict[str, Any]) -> bytes:
    return mark + orjson.dumps(line) + b"\n"
