"""Random parts of linear maps that are too large for a dense decomposition."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

Shape = tuple[int, ...]


def _scattered(shape: Shape, side: int, generator: np.random.Generator) -> Tensor:
    """Return a mask (1, *shape) of `side` entries anywhere, all where there are no more."""
    size = math.prod(shape)
    mask = torch.zeros(size, dtype=torch.float64)
    mask[torch.from_numpy(generator.permutation(size)[:side])] = 1
    return mask.view(1, *shape)


def _window(shape: Shape, side: int, place: tuple[float, float]) -> Tensor:
    """Return a mask (1, C, H, W) of all channels in a square of at most `side` entries; `place`: in [0, 1]²."""
    mask = torch.zeros(1, *shape, dtype=torch.float64)
    length = max(1, math.isqrt(side // shape[0]))
    top, left = (round(each * max(0, size - length)) for each, size in zip(place, shape[1:], strict=True))
    mask[:, :, top : top + length, left : left + length] = 1
    return mask


def submasks(outputs: Shape, inputs: Shape, side: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return masks of outputs and inputs, (1, *shape), of about `side` entries each.

    Half of them are windows at the same place of both, as strongly coupled as the whole map, where the map is between
    images and `side` is not below their channels; the others are scattered.
    """
    images = len(inputs) == len(outputs) == 3 and side >= max(inputs[0], outputs[0])
    if images and generator.random() < 0.5:
        place = (generator.random(), generator.random())
        return _window(outputs, side, place), _window(inputs, side, place)
    return _scattered(outputs, side, generator), _scattered(inputs, side, generator)
