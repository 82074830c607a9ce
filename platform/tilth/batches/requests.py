"""Reads a file of requests, one on each line, as OpenAI's Batch API has them. Runs in the child."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from tilth.batches.items import Item, Packer
from tilth.batches.states import Endpoint
from tilth.core.errors import Invalid
from tilth.core.text import storable
from tilth.gateway.asks import LARGEST, Ask, Embed, fitted

MOST_LINES = 50_000
MOST_BYTES = 200 << 20
"""Of the file."""
LINE_BYTES = LARGEST + (8 << 10)
"""Of a line: a request's body, and what stands around it."""
ID_CHARS = 512
DEEPEST = 32
"""Objects and lists of a body within each other."""
TOLD = 100
"""Faults that are listed."""
KEYS = frozenset({"custom_id", "method", "url", "body"})
EXAMPLE = '{"custom_id": "1", "method": "POST", "url": "/v1/predictions", "body": {"model": "ft:…", "inputs": […]}}'
BOM = b"\xef\xbb\xbf"

Fault = dict[str, Any]
"""{code, message, param, line}: OpenAI's ``batch_error``."""


class Refused(Exception):
    """A line that makes the whole file none that can be worked on."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param


class Requests:
    """The lines of one file; ``faults`` has the first that are wrong."""

    def __init__(self, endpoint: Endpoint, packer: Packer) -> None:
        self._endpoint, self._packer = endpoint, packer
        self._seen: dict[str, int] = {}
        self.model = ""
        self._named_in: int | None = None
        self.faults: list[Fault] = []

    def read(self, path: Path) -> dict[str, Any]:
        """Reads it all; what a body says wrong is its line's own error."""
        for line, raw in _lines(path):
            if self._packer.lines >= MOST_LINES:
                self._fault(Refused("too_many_requests", f"At most {MOST_LINES:,} requests; split the file."), line)
                break
            try:
                self._take(line, raw)
            except Refused as refused:
                self._fault(refused, line)
            if len(self.faults) >= TOLD:
                break
        if not self._packer.lines and not self.faults:
            self._fault(Refused("empty_file", f"The file has no requests; write one on each line, e.g. {EXAMPLE}."))
        self._packer.flush()
        return {"model": self.model, "line": self._named_in, "faults": self.faults}

    def _take(self, line: int, raw: bytes | None) -> None:
        if raw is None:
            raise Refused("line_too_long", f"The line is over {LINE_BYTES >> 10:,} KiB; ask for less in one request.")
        asked = _envelope(raw)
        self._refuse_id(asked, line)
        self._refuse_address(asked)
        self._refuse_model(asked["body"], line)
        self._packer.add(self._item(line, asked), len(raw))

    def _refuse_id(self, asked: dict[str, Any], line: int) -> None:
        id_ = asked.get("custom_id")
        if id_ is None:
            raise Refused("missing_required_parameter", "The line has no custom_id.", "custom_id")
        if not isinstance(id_, str) or not 1 <= len(id_) <= ID_CHARS or not storable(id_):
            raise Refused(
                "invalid_custom_id", f"custom_id is a text of 1 to {ID_CHARS} characters; found {_short(id_)}.",
                "custom_id",
            )  # fmt: skip
        if (first := self._seen.setdefault(id_, line)) != line:
            message = f"The custom_id {_short(id_)} stands in line {first} already; give each line its own."
            raise Refused("duplicate_custom_id", message, "custom_id")

    def _refuse_address(self, asked: dict[str, Any]) -> None:
        if asked.get("method") != "POST":
            message = f"method is {_short(asked.get('method'))}; only 'POST' can be asked."
            raise Refused("invalid_method", message, "method")
        if asked.get("url") != self._endpoint:
            found = _short(asked.get("url"))
            message = f"url is {found}, but the batch was made for {self._endpoint.value!r}; all lines have the same."
            raise Refused("mismatched_url", message, "url")
        if not isinstance(asked.get("body"), dict):
            raise Refused("missing_required_parameter", "The line has no body, which is a JSON object.", "body")

    def _refuse_model(self, body: dict[str, Any], line: int) -> None:
        model = body.get("model")
        if not isinstance(model, str) or not model or not storable(model):
            raise Refused("missing_required_parameter", "The body names no model.", "body.model")
        if not self.model:
            self.model, self._named_in = model, line
        if model != self.model:
            message = f"The body names {_short(model)}, an earlier line {_short(self.model)}; a batch is for one model."
            raise Refused("mismatched_model", message, "body.model")

    def _item(self, line: int, asked: dict[str, Any]) -> Item:
        try:
            _refuse_deep(asked["body"], DEEPEST)
            return Item(line, asked["custom_id"], **self._asked(asked["body"]))
        except Invalid as error:
            told = {"message": error.message, "code": error.reason, "param": error.param}
            return Item(line, asked["custom_id"], error=told)

    def _asked(self, body: dict[str, Any]) -> dict[str, Any]:
        match self._endpoint:
            case Endpoint.PREDICTIONS:
                return {"inputs": list(fitted(body, Ask).inputs)}
            case Endpoint.EMBEDDINGS:
                embed = fitted(body, Embed)
                texts = [embed.input] if isinstance(embed.input, str) else embed.input
                return {"inputs": texts, "plain": embed.encoding_format == "float"}

    def _fault(self, refused: Refused, line: int | None = None) -> None:
        self.faults.append({"code": refused.code, "message": refused.message, "param": refused.param, "line": line})


def _lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """(number, bytes) of each line that is not blank; None for one that is too long."""
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(LINE_BYTES + 1):
            number += 1
            long = len(raw) > LINE_BYTES
            while not raw.endswith(b"\n") and (more := file.readline(LINE_BYTES)):
                raw = more  # the rest of a line that is too long
            if long:
                yield number, None
            elif raw.strip().removeprefix(BOM):
                yield number, raw.removeprefix(BOM)


def _envelope(raw: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        message = f"The line is no JSON object: {str(error).partition(': line')[0]}."
        cure = f"Write one request on each line, e.g. {EXAMPLE}; for a file of plain rows, name the model of the batch"
        raise Refused("invalid_json_line", f"{message} {cure}.") from None
    if not isinstance(found, dict):
        raise Refused("invalid_json_line", f"The line is a JSON {type(found).__name__}, not an object like {EXAMPLE}.")
    if unknown := sorted(set(found) - KEYS):
        message = f"Unknown key {_short(unknown[0])}; a line has {', '.join(sorted(KEYS))}."
        raise Refused("unknown_parameter", message, unknown[0][:ID_CHARS])
    return found


def _short(value: Any) -> str:
    return repr(value)[:80]


def _refuse_deep(value: object, left: int) -> None:
    """What is nested so deep that it cannot be written once more within a chunk."""
    if isinstance(value, dict | list):
        if not left:
            raise Invalid(f"The body is nested deeper than {DEEPEST} levels.", code="invalid_body", param="body")
        for item in value.values() if isinstance(value, dict) else value:
            _refuse_deep(item, left - 1)
