"""What a model must beat to be worth its price: the majority class, and TF-IDF with a linear SVM."""

from collections import Counter


def majority(train: list[int], test: list[int]) -> float:
    """Accuracy of always answering the commonest training class."""
    commonest = Counter(train).most_common(1)[0][0]
    return sum(target == commonest for target in test) / len(test)


def tfidf_svm(train: list[str], train_targets: list[int], test: list[str], test_targets: list[int]) -> float:
    """Test accuracy of TF-IDF (words 1-2, characters 2-5) with a linear SVM, library defaults."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.svm import LinearSVC

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    model = make_pipeline(make_union(words, characters), LinearSVC(random_state=0))
    model.fit(train, train_targets)
    return float(model.score(test, test_targets))
