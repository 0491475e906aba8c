"""One vector an image: what is kept, what never is, and what processes tell each other."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lipcert.bounds.vector_table import VectorTable

CPU = torch.device("cpu")


def _table(count: int = 5, size: int = 3, dtype: torch.dtype = torch.float16) -> VectorTable:
    return VectorTable(count, size, dtype, CPU)


def test_vectors_come_back_as_units_for_their_images() -> None:
    table = _table()
    table.put(torch.tensor([4, 1]), torch.tensor([[0.0, 3e6, 4e6], [2e-6, 0.0, 0.0]]))
    vectors, known = table.take(torch.tensor([0, 1, 4]), torch.zeros((), dtype=torch.float64))
    assert known.tolist() == [False, True, True]
    assert vectors.dtype == torch.float64
    expected = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 0.6, 0.8]], dtype=torch.float64)
    torch.testing.assert_close(vectors, expected, rtol=1e-3, atol=0)


def test_dead_and_broken_vectors_are_never_kept() -> None:
    table = _table(dtype=torch.float32)
    images = torch.arange(5)
    table.put(images, torch.tensor([1.0, 0, 0]).expand(5, 3))
    kept = table.vectors.clone()
    nan, inf = torch.nan, torch.inf
    table.put(images, torch.tensor([[0.0, 0, 0], [nan, 1, 0], [0, inf, 0], [0, -inf, inf], [0.0, 1, 0]]))
    assert torch.equal(table.vectors[:4], kept[:4])
    assert table.vectors[4].tolist() == [0, 1, 0]
    fresh = _table()
    fresh.put(torch.tensor([2]), torch.full((1, 3), nan))
    assert not fresh.take(torch.tensor([2]), kept)[1].any()


def test_merged_rows_are_those_of_their_owners(monkeypatch) -> None:
    """Three processes of two, one and no images; nobody visited image 4, which keeps what all knew."""
    monkeypatch.setattr("lipcert.bounds.vector_table.MERGED_AT_A_TIME", 6)  # two rows at a time
    tables = [_table() for _ in range(3)]
    owns = [torch.tensor(rows) for rows in ([1, 0, 0, 1, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0])]
    for rank, table in enumerate(tables):
        table.vectors += 0.25
        table.vectors[owns[rank].bool()] = rank + 1.0
    before = [table.vectors.float() for table in tables]
    calls = [0] * 3

    def summed(rank: int, part: Tensor) -> Tensor:
        start = 2 * calls[rank]
        calls[rank] += 1
        others = [(each * own[:, None])[start : start + 2] for each, own in zip(before, owns, strict=True)]
        assert torch.equal(part, others[rank])
        return sum(others)  # type: ignore[return-value]

    for rank, table in enumerate(tables):
        table.merge(owns[rank].bool(), torch.stack(owns).any(dim=0), partial(summed, rank))
        assert table.vectors[:, 0].tolist() == [1, 2, 0.25, 1, 0.25]
