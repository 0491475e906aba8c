"""Crops of bundled photographs: shapes, repeatability, and halves that never mix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lipcert.data import sources


def _numbered(height: int, width: int) -> np.ndarray:
    """Return a picture whose channels are the row, the column and a constant."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack((rows, columns, np.full_like(rows, 7)), axis=-1).astype(np.uint8)


def test_crops_are_windows_of_the_picture() -> None:
    cut = sources.crops(_numbered(40, 100), 200, np.random.default_rng(0))
    assert cut.shape == (200, 3, 32, 32)
    tops, lefts = cut[:, 0, 0, 0].astype(int), cut[:, 1, 0, 0].astype(int)
    for window, top, left in zip(cut, tops, lefts, strict=True):
        np.testing.assert_array_equal(window.transpose(1, 2, 0), _numbered(40, 100)[top : top + 32, left : left + 32])
    assert set(tops) == set(range(9))
    assert lefts.min() < 10
    assert lefts.max() > 58


def test_a_picture_of_one_crop() -> None:
    cut = sources.crops(_numbered(32, 32), 3, np.random.default_rng(0))
    assert (cut == _numbered(32, 32).transpose(2, 0, 1)).all()


@pytest.mark.parametrize("width", [64, 101])
def test_training_and_test_crops_come_from_disjoint_halves(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setattr(sources, "photographs", lambda: [_numbered(50, width)] * 3)
    images = sources.load_photos(train_per_class=60, test_per_class=40)
    train_columns, test_columns = images.train.images[:, 1], images.test.images[:, 1]
    assert train_columns.max() < test_columns.min()
    assert train_columns.max() == width // 2 - 1
    assert test_columns.min() == width // 2
    assert test_columns.max() == width - 1


def test_ten_balanced_classes_of_real_photographs() -> None:
    images = sources.load_photos(train_per_class=20, test_per_class=10)
    assert images.num_classes == 10
    assert images.train.images.shape == (200, 3, 32, 32)
    assert images.test.images.shape == (100, 3, 32, 32)
    assert images.train.images.dtype == torch.uint8
    assert torch.bincount(images.train.labels).tolist() == [20] * 10
    assert torch.bincount(images.test.labels).tolist() == [10] * 10
    assert images.train.labels[:20].unique().numel() > 3, "shuffled"


def test_labels_follow_their_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [np.full((40, 80, 3), 20 * index, np.uint8) for index in range(10)]
    monkeypatch.setattr(sources, "photographs", lambda: pictures)
    images = sources.load_photos(5, 5)
    for split in (images.train, images.test):
        assert torch.equal(split.images[:, 0, 0, 0].long(), 20 * split.labels)


def test_the_same_every_time() -> None:
    first = sources.load_photos(5, 5)
    np.random.seed(5)
    torch.manual_seed(5)
    second = sources.load_photos(5, 5)
    assert torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.test.images, second.test.images)
    assert torch.equal(first.test.labels, second.test.labels)
