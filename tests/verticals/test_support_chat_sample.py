"""The sample of support chat is what its README says: hand-written, varied, neither trivial nor hopeless."""

import itertools
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

SAMPLE = Path(__file__).resolve().parents[2] / "verticals" / "support_chat" / "sample.jsonl"


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    return [json.loads(line) for line in SAMPLE.read_text().splitlines()]


def test_it_has_600_messages_of_12_intents_and_some_of_none(rows: list[dict[str, str]]) -> None:
    counted = Counter(row["intent"] for row in rows)
    outside = counted.pop("out_of_scope")
    assert len(rows) >= 600
    assert len(counted) >= 12
    assert outside >= 50
    assert min(counted.values()) >= 30


def test_no_two_rows_share_more_than_six_tenths_of_their_tokens(rows: list[dict[str, str]]) -> None:
    tokens = [(row["text"], frozenset(re.findall(r"[a-z0-9']+", row["text"].lower()))) for row in rows]
    close = [
        (one, two)
        for (one, a), (two, b) in itertools.combinations(tokens, 2)
        if 10 * len(a & b) > 6 * len(a | b)
    ]  # fmt: skip
    assert close == []


def test_tfidf_learns_some_of_it_and_not_all(rows: list[dict[str, str]]) -> None:
    inside = [(row["text"], row["intent"]) for row in rows if row["intent"] != "out_of_scope"]
    texts, intents = zip(*inside, strict=True)
    scores = []
    for seed in range(5):
        split = train_test_split(texts, intents, test_size=0.2, stratify=intents, random_state=seed)
        train, test, train_intents, test_intents = split
        model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LinearSVC())
        scores.append(model.fit(train, train_intents).score(test, test_intents))
    assert 0.65 <= sum(scores) / 5 <= 0.90
