"""Text that PostgreSQL can keep: no NUL, no half of a surrogate pair."""

import re

from tilth.core.errors import Invalid

UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def storable(text: str) -> bool:
    """Whether it can be kept; most texts are told without a search."""
    return "\0" not in text and (text.isascii() or not UNSTORABLE.search(text))


def refuse_unstorable(text: str, where: str) -> None:
    """Raises Invalid naming the place."""
    if found := UNSTORABLE.search(text):
        what = "a NUL" if found[0] == "\0" else "half a surrogate pair"
        raise Invalid(f"{where} holds {what}, which cannot be stored; remove it.", param=where, code="bad_character")
