"""JSON bodies of the management API, read strictly: what could be misread or not kept is refused by name."""

import json
import math
from typing import Any

from rest_framework.parsers import BaseParser

from tilth.core.errors import Invalid
from tilth.core.pairs import unique
from tilth.core.text import refuse_unstorable

DEEPEST = 32
"""Objects and lists within each other."""
INT64 = 1 << 63
DIGITS = 20
"""Of a whole number that may still fit 64 bits."""


class JsonBody(BaseParser):
    """DRF's parser of ``application/json``, always UTF-8."""

    media_type = "application/json"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        """The value; raises Invalid."""
        return parsed(stream.read())


def parsed(body: bytes, what: str = "The body") -> Any:
    """The JSON in a body, or in ``what``; raises Invalid naming what is wrong with it."""
    try:
        found = json.loads(
            body.decode(), object_pairs_hook=unique, parse_constant=_no_number, parse_int=_int64, parse_float=_finite
        )
    except UnicodeDecodeError as cause:
        raise _bad(what, f"byte {cause.start + 1} is not UTF-8") from None
    except RecursionError:
        raise _bad(what, f"it is nested deeper than {DEEPEST} levels") from None
    except ValueError as cause:
        raise _bad(what, str(cause)) from None
    _walk(found, "", what, DEEPEST)
    return found


def refuse_unkept(value: Any, what: str) -> None:
    """Raises Invalid for what JSON in the database, or an answer, cannot hold: NUL, half surrogates, NaN, an abyss."""
    _walk(value, "", what, DEEPEST)
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        raise _bad(what, "it holds NaN or Infinity") from None


def _walk(value: Any, where: str, what: str, left: int) -> None:
    """Raises Invalid for text that cannot be kept and for too deep a nesting."""
    if isinstance(value, str):
        refuse_unstorable(value, where or what)
    elif isinstance(value, dict | list):
        if not left:
            raise _bad(what, f"it is nested deeper than {DEEPEST} levels")
        for step, item in value.items() if isinstance(value, dict) else enumerate(value):
            refuse_unstorable(str(step), where or "a field's name")
            _walk(item, f"{where}.{step}" if where else str(step), what, left - 1)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _int64(digits: str) -> int:
    if len(digits) > DIGITS or not -INT64 <= (number := int(digits)) < INT64:
        raise ValueError(f"a whole number of {len(digits.lstrip('-'))} digits does not fit 64 bits")
    return number


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError("a number is too large")
    return number


def _bad(what: str, why: str) -> Invalid:
    return Invalid(f"{what} is no JSON that can be read: {why}.", code="bad_json")
