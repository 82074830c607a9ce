"""Cells that hold several labels: a JSON list, or labels between ``|`` or ``;``; an empty cell holds none."""

import json
import re
from typing import Any

BETWEEN = re.compile(r"[|;]")


class Listed(str):
    """A cell that was a list of a JSON Lines file, as JSON; no plain value, except where labels are wanted."""


def labels_in(text: str) -> list[str] | None:
    """The labels of a cell, each once, in order; None for a JSON list of anything but texts and numbers."""
    found = _listed(text) if text.lstrip().startswith("[") else BETWEEN.split(text)
    if found is None:
        return None
    return sorted({label for each in found if (label := str(each).strip())})


def _listed(text: str) -> list[Any] | None:
    """A text that only begins like a list is one label."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return [text]
    plain = isinstance(found, list) and all(type(each) in (str, int, float) for each in found)
    return found if plain else None
