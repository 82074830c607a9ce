"""What labels are called: words of the customer's own, which say something where rows are few."""

import re
from collections.abc import Sequence

BREAK = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[^\w]+|_+")
"""Between two words of a label: "card_arrival", "card-arrival" and "cardArrival" have two."""
WORD = re.compile(r"[^\W\d_]{3}")


def spoken(labels: Sequence[str]) -> dict[int, str]:
    """By number those labels that hold a word, as one would say them; "LABEL_7", "B2" and "42" say nothing.

    A word that every label has ("LABEL_0", "LABEL_1") tells none from the others and is left out.
    """
    words = [[word.lower() for word in BREAK.split(label) if word] for label in labels]
    common = set(words[0]).intersection(*words[1:]) if words else set()
    told = {at: " ".join(word for word in each if word not in common) for at, each in enumerate(words)}
    return {at: name for at, name in told.items() if WORD.search(name)}
