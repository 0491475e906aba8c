"""A CIFAR-shaped set that needs no network: crops of the photographs bundled with two libraries.

Each of ten photographs is a class. Training crops come from its left half, test crops from its right half.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from lipcert.data.arrays import Images, Split

SIZE = 32


@cache
def photographs() -> tuple[np.ndarray, ...]:
    """Return ten colour photographs, (H, W, 3) uint8, decoded once a process: they are not to be written to."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    pictures = [
        *(data.astronaut(), data.chelsea(), data.coffee(), data.hubble_deep_field(), data.immunohistochemistry()),
        *(data.retina(), data.rocket(), data.stereo_motorcycle()[0]),
        *(load_sample_image("china.jpg"), load_sample_image("flower.jpg")),
    ]
    return tuple(np.asarray(picture)[..., :3] for picture in pictures)


def crops(picture: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Return `count` random crops of a picture, (count, 3, 32, 32)."""
    tops = generator.integers(0, picture.shape[0] - SIZE + 1, count)
    lefts = generator.integers(0, picture.shape[1] - SIZE + 1, count)
    cut = [picture[top : top + SIZE, left : left + SIZE] for top, left in zip(tops, lefts, strict=True)]
    return np.stack(cut).transpose(0, 3, 1, 2)


def load_photos(train_per_class: int = 1000, test_per_class: int = 200) -> Images:
    """Return the crops, shuffled once; the same on every machine."""
    generator = np.random.default_rng(0)
    pictures = photographs()
    train, test = [], []
    for picture in pictures:
        middle = picture.shape[1] // 2
        train.append(crops(picture[:, :middle], train_per_class, generator))
        test.append(crops(picture[:, middle:], test_per_class, generator))

    def split(parts: list[np.ndarray]) -> Split:
        images = torch.from_numpy(np.concatenate(parts).copy())
        labels = torch.arange(len(parts)).repeat_interleave(len(parts[0]))
        order = torch.from_numpy(generator.permutation(len(images)))
        return Split(images[order], labels[order])

    return Images(split(train), split(test), len(pictures))
