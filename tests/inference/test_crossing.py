"""Folds of cross-fitting: even, each label in its share, and nothing that belongs together in two of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from inference.engine.crossing import FOLDS, crossed, folds, groups_of, parts


def astride(fold: Tensor, groups: Tensor) -> list[int]:
    """Groups in more than one fold."""
    return [group for group in set(groups.tolist()) if len(set(fold[groups == group].tolist())) > 1]


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), rows=st.integers(1, 300), parts=st.integers(1, 300), kind=st.sampled_from("lnm"))
def test_whatever_the_targets_no_group_is_in_two_folds_and_the_same_seed_gives_the_same(
    seed: int, rows: int, parts: int, kind: str
) -> None:
    chance = torch.Generator().manual_seed(seed)
    groups = torch.randint(parts, (rows,), generator=chance)
    labels = torch.randint(5, (rows,), generator=chance)
    many = (torch.rand(rows, 4, generator=chance) < 0.3).float()
    targets = {"l": labels, "n": torch.randn(rows, generator=chance), "m": many}[kind]
    fold = folds(targets, seed, groups)
    assert astride(fold, groups) == [] or len(set(groups.tolist())) == 1
    assert fold.shape == (rows,)
    assert set(fold.tolist()) <= set(range(FOLDS))
    assert torch.equal(fold, folds(targets, seed, groups))


def test_single_rows_level_what_groups_leave_uneven() -> None:
    groups = torch.cat([torch.zeros(30), torch.ones(12), torch.full((9,), 2), torch.arange(3, 252)]).long()
    targets = torch.arange(300) % 3
    fold = folds(targets, 0, groups)
    assert torch.bincount(fold).tolist() == [60] * FOLDS
    assert all(torch.bincount(fold[targets == label]).tolist() == [20] * FOLDS for label in range(3))


def test_rows_that_are_all_one_group_are_split_as_if_there_were_none() -> None:
    targets = torch.arange(100) % 3
    assert torch.equal(folds(targets, 1, torch.zeros(100, dtype=torch.long)), folds(targets, 1))


def test_folds_without_rows_are_passed_over() -> None:
    fold = folds(torch.arange(60) % 3, 0, torch.arange(60) % 2)
    found = [(len(rows), len(held)) for rows, held in parts(fold)]
    assert found == [(30, 30)] * 2
    members, outputs = crossed(
        fold, 1, lambda rows, held: len(rows), lambda size, held: torch.full((len(held), 1), size)
    )
    assert members == [30, 30]
    assert outputs.tolist() == [[30.0]] * 60


def test_rare_labels_of_single_rows_do_not_all_fall_into_one_fold() -> None:
    groups = torch.cat([torch.zeros(2), torch.arange(1, 99)]).long()
    fold = folds(torch.arange(100), 0, groups)
    assert torch.bincount(fold).tolist() == [20] * FOLDS


def test_without_groups_every_row_is_alone_as_in_versions_from_before_there_were_any() -> None:
    targets = torch.arange(100) % 7
    alone = groups_of([{"line": line} for line in range(100)])
    assert torch.equal(folds(targets, 3), folds(targets, 3, alone))
    assert torch.bincount(folds(targets, 3)).tolist() == [20] * FOLDS


def test_equal_rows_no_longer_flatter_a_model_that_only_remembers() -> None:
    """Labels at random, each row there twice: one nearest neighbour is right by memory wherever its twin was seen."""
    from sklearn.neighbors import KNeighborsClassifier

    chance = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 8, generator=chance).repeat(2, 1)
    targets = torch.randint(2, (200,), generator=chance).repeat(2)
    scores = {}
    for name, groups in (("apart", None), ("together", torch.arange(200).repeat(2))):
        fold, hits = folds(targets, 0, groups), 0
        for held in range(FOLDS):
            model = KNeighborsClassifier(1).fit(rows[fold != held], targets[fold != held])
            hits += int((model.predict(rows[fold == held]) == targets[fold == held].numpy()).sum())
        scores[name] = hits / len(rows)
    assert scores["apart"] > 0.7
    assert scores["together"] == pytest.approx(0.5, abs=0.1)
