"""Rows, tokens and matrices in files are the same as in memory, and take none of it."""

import json
from pathlib import Path

import duckdb
import pytest
import torch
from torch.nn import functional

from inference.engine import fitting, limits, spill
from inference.engine.data import read_splits
from inference.engine.fitting import fit_linear
from inference.engine.heads import Head
from inference.engine.objectives.single_label import SingleLabel
from inference.engine.spill import Lazy, Ragged, Rows, joined, mapped, picked, zeros

ROWS = [["é", 1, None, ["a", "b"]], ["", 2.5, '{"x": 1}', []], ["tab\tand\nline", float("inf"), "z" * 100_000, None]]


def test_rows_come_back_as_they_went_in() -> None:
    rows = Rows(["text", "number", "free", "labels"])
    for values in ROWS:
        rows.append(values)
    found = rows.all()
    assert list(found) == [dict(zip(["text", "number", "free", "labels"], values, strict=True)) for values in ROWS]
    assert found[-1] == found[2]
    assert found[1:] == [found[1], found[2]]
    with pytest.raises(IndexError, match="3 of 3"):
        found[3]


def test_rows_appended_after_a_read_are_seen() -> None:
    rows = Rows(["n"])
    rows.append([1])
    assert list(rows.all()) == [{"n": 1}]
    rows.append([2])
    assert list(rows.all()) == [{"n": 1}, {"n": 2}]


def test_lists_of_tokens_keep_their_lengths() -> None:
    lists = [[1, 2, 3], [], [30_521] * 512]
    ragged = Ragged(iter(lists))
    assert list(ragged) == lists
    assert ragged.lengths.tolist() == [3, 0, 512]
    assert len(Ragged([])) == 0


def test_sequences_of_sequences() -> None:
    items = Lazy(5, lambda at: at)
    assert list(picked(items, torch.tensor([True, False, True, False, True]))) == [0, 2, 4]
    assert picked(items, torch.ones(5, dtype=torch.bool)) is items
    assert list(mapped(items, str)) == list("01234")
    assert list(joined(items, picked(items, torch.tensor([0, 0, 1, 1, 0]).bool()))) == [0, 1, 2, 3, 4, 2, 3]
    assert items[-2:] == [3, 4]


def test_a_large_matrix_is_mapped_and_takes_nothing_of_the_jobs_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "KEPT", 1 << 20)
    with limits.capped(8 << 20):
        matrix = zeros(100_000, 256)
        matrix[torch.arange(0, 100_000, 2)[:100]] = torch.ones(100, 256)
        for part in torch.split(matrix, 10_000):
            part += 1
    assert matrix.shape == (100_000, 256)
    assert matrix[:4, 0].tolist() == [2, 1, 2, 1]
    with limits.capped(8 << 20), pytest.raises(RuntimeError, match="allocate memory"):
        torch.zeros(100_000, 256)


def test_a_linear_model_fitted_part_by_part_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    vectors, targets = functional.normalize(torch.randn(500, 16)), torch.randint(0, 3, (500,))
    start, objective = Head(torch.zeros(3, 16), torch.zeros(3)), SingleLabel(("a", "b", "c"))
    whole = fit_linear(vectors, targets, 10.0, start, objective)
    monkeypatch.setattr(fitting, "FITTED", 77)
    parts = fit_linear(vectors, targets, 10.0, start, objective)
    torch.testing.assert_close(parts.weight, whole.weight, rtol=1e-3, atol=1e-3)
    assert not torch.equal(parts.weight, torch.zeros(3, 16))


@pytest.mark.slow
def test_a_dataset_is_read_although_its_rows_do_not_fit_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    duckdb.execute(
        "COPY (SELECT ['train', 'validation', 'test'][1 + i % 3] AS split, i AS line,"
        f" repeat(md5(i::varchar), 100) AS text FROM range(120_000) t(i))"
        f" TO '{path}' (COMPRESSION zstd, ROW_GROUP_SIZE 4096)"
    )
    with limits.capped(256 << 20):  # 384 MB of text
        splits = read_splits(path)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [40_000] * 3
    assert [row["line"] for row in splits.validation] == list(range(1, 120_000, 3))
    assert len(json.dumps(splits.test[-1])) > 3200
