"""What a model must beat to be worth its price: a constant answer, and TF-IDF with a linear SVM."""

from torch import Tensor

from inference.engine.candidate import Lesson


def constant(lesson: Lesson, targets: Tensor) -> float:
    """The score of always answering what training says most often, or on average."""
    outputs = lesson.objective.constant(lesson.train_targets)[None].expand(len(targets), -1)
    return lesson.objective.score(outputs, targets)


def tfidf_svm(train: list[str], train_targets: list[int], test: list[str], test_targets: list[int]) -> float:
    """Test accuracy of TF-IDF (words 1-2, characters 2-5) with a linear SVM, library defaults."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.svm import LinearSVC

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    told = [each for each in (words, characters) if any(map(each.build_analyzer(), train))]  # emoji are no words
    model = make_pipeline(make_union(*told), LinearSVC(random_state=0))
    model.fit(train, train_targets)
    return float(model.score(test, test_targets))
