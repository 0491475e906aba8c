"""Random crops and flips against every shift there is."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch

from lipcert.data.module import crop_and_flip, draw


def _augment(images: torch.Tensor, padding: int, seed: int) -> torch.Tensor:
    return crop_and_flip(images, padding, draw(len(images), padding, torch.Generator().manual_seed(seed)))


def _shifted(image: np.ndarray, padding: int, row: int, column: int, mirrored: bool) -> np.ndarray:
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    crop = padded[:, row : row + image.shape[1], column : column + image.shape[2]]
    return crop[:, :, ::-1] if mirrored else crop


def test_every_outcome_is_a_shift_and_perhaps_a_flip() -> None:
    image = torch.arange(1, 31).view(2, 3, 5).float()
    outcomes = _augment(image.expand(600, 2, 3, 5), 1, seed=0)
    assert outcomes.shape == (600, 2, 3, 5)
    possible = {
        _shifted(image.numpy(), 1, row, column, mirrored).tobytes()
        for row, column, mirrored in product(range(3), range(3), (False, True))
    }
    assert len(possible) == 18
    assert {outcome.contiguous().numpy().tobytes() for outcome in outcomes} == possible


def test_without_padding_only_flips() -> None:
    images = torch.rand(200, 1, 4, 4)
    outcomes = _augment(images, 0, seed=0)
    kept = (outcomes == images).flatten(1).all(dim=1)
    flipped = (outcomes == images.flip(3)).flatten(1).all(dim=1)
    assert (kept | flipped).all()
    assert 60 < int(flipped.sum()) < 140


def test_repeatable_and_within_the_pixels() -> None:
    images = torch.rand(50, 3, 8, 8)
    first = _augment(images, 4, seed=1)
    assert torch.equal(first, _augment(images, 4, seed=1))
    assert not torch.equal(first, _augment(images, 4, seed=2))
    assert first.min() >= 0
    assert first.max() <= 1
    assert (first == 0).any(), "black outside"
