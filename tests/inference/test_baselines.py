"""The plain ways beside a model: they judge every text that a job may learn from."""

import pytest

from inference.engine.baselines import tfidf_svm


@pytest.mark.parametrize("texts", [("😀😀", "😡"), ("a", "b"), ("good news", "bad"), ("", "☂")])
def test_texts_without_a_word_are_told_apart_by_their_characters(texts: tuple[str, str]) -> None:
    train, targets = list(texts) * 4, [0, 1] * 4
    assert tfidf_svm(train, targets, [*texts, ""], [0, 1, 1]) >= 2 / 3
