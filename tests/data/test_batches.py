"""Global batches: the same images for any number of ranks, each once, with weights that sum up."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lipcert.data.arrays import Split, Stored
from lipcert.data.batches import GlobalBatches

COUNTS = st.integers(1, 70)
RANKS = st.integers(1, 5)
IMAGES_A_RANK = st.integers(1, 4)


def _epoch(batches: GlobalBatches, epoch: int) -> list[list[int]]:
    batches.set_epoch(epoch)
    return list(batches)


@given(COUNTS, RANKS, IMAGES_A_RANK, st.integers(0, 3))
def test_ranks_split_the_batches_of_one_process(count: int, ranks: int, images_a_rank: int, epoch: int) -> None:
    size = ranks * images_a_rank
    whole = _epoch(GlobalBatches(count, size, seed=7), epoch)
    parts = [_epoch(GlobalBatches(count, size, ranks, rank, seed=7), epoch) for rank in range(ranks)]
    samplers = [GlobalBatches(count, size, ranks, rank, seed=7) for rank in range(ranks)]
    assert sorted(chain(*whole)) == list(range(count))
    assert {len(part) for part in parts} == {len(whole)} == {len(sampler) for sampler in samplers}
    for index, batch in enumerate(whole):
        shares = [sampler.share(index) for sampler in samplers]
        own = [part[index][: held // ranks] for part, (held, _) in zip(parts, shares, strict=True)]
        assert sorted(chain(*own)) == sorted(batch)
        assert [ranks * len(images) for images in own] == [held for held, _ in shares]
        assert all(part[index] for part in parts), "every rank takes part in every step"
        assert {everyones for _, everyones in shares} == {len(batch)}


@given(COUNTS, RANKS, IMAGES_A_RANK)
def test_weights_turn_means_of_shares_into_the_mean_of_the_batch(count: int, ranks: int, images_a_rank: int) -> None:
    """The mean over ranks of weight x mean over the share, of the images' own numbers."""
    size = ranks * images_a_rank
    last = len(GlobalBatches(count, size)) - 1
    batch = list(GlobalBatches(count, size, seed=1))[last]
    total = 0.0
    for rank in range(ranks):
        sampler = GlobalBatches(count, size, ranks, rank, seed=1)
        (held, everyones), images = sampler.share(last), list(sampler)[last]
        total += held / everyones * sum(images) / len(images) / ranks
        assert held % ranks == 0, "Lightning divides it by the ranks in integers"
    assert total == pytest.approx(sum(batch) / len(batch))


@given(COUNTS, RANKS, IMAGES_A_RANK)
def test_in_order_every_image_once_and_no_more(count: int, ranks: int, images_a_rank: int) -> None:
    size = ranks * images_a_rank
    parts = [list(GlobalBatches(count, size, ranks, rank)) for rank in range(ranks)]
    assert {len(part) for part in parts} == {-(-count // size)}
    assert sorted(index for part in parts for batch in part for index in batch) == list(range(count))


def test_order_depends_on_seed_and_epoch() -> None:
    batches = GlobalBatches(50, 10, seed=1)
    first, second = _epoch(batches, 0), _epoch(batches, 1)
    assert first != second
    assert first == _epoch(batches, 0) == _epoch(GlobalBatches(50, 10, seed=1), 0)
    assert first != _epoch(GlobalBatches(50, 10, seed=2), 0)


def test_ranks_must_divide_the_batch() -> None:
    with pytest.raises(ValueError, match="batch_size`=32 cannot be split over 3 devices"):
        GlobalBatches(100, 32, 3)


def test_an_empty_share_is_a_batch_of_none() -> None:
    """The last global batch may be smaller than there are ranks."""
    images, labels = Stored(Split(torch.zeros(3, 1, 2, 2), torch.arange(3)))[[]]
    assert (images.shape, labels.shape) == ((0, 1, 2, 2), (0,))
