"""Activations that are 1-Lipschitz in l2 and constant over part of their input range."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lipcert.nn import selection


def clipped_relu(inputs: Tensor, threshold: Tensor) -> Tensor:
    """Return min(max(z, 0), threshold) elementwise (the paper's ReLU-theta).

    `inputs`: (B, *shape); `threshold`: broadcastable to it, every entry >= 0.
    """
    if torch.is_grad_enabled():
        return selection.minimum(inputs.relu(), threshold)
    return inputs.clamp(threshold.new_zeros(()), threshold)


def split_pairs(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Split channels (dimension 1) into two halves: pair i is (channel i, channel i + C/2).

    `inputs`: (B, C, ...) -> two tensors (B, C/2, ...).
    """
    first, second = inputs.chunk(2, dim=1)
    return first, second


def max_min(inputs: Tensor) -> Tensor:
    """Return the larger of every pair in the first half of the channels, the smaller in the second.

    `inputs`: (B, C, ...) with C even -> (B, C, ...).
    """
    first, second = split_pairs(inputs)
    return torch.cat((selection.maximum(first, second), selection.minimum(first, second)), dim=1)


def clipped_max_min(inputs: Tensor, maximum: Tensor, minimum: Tensor) -> Tensor:
    """Return MaxMin with its larger half clipped from above, its smaller half from below.

    `inputs`: (B, C, ...) with C even; `maximum`, `minimum`: broadcastable to (B, C/2, ...).
    """
    first, second = split_pairs(inputs)
    larger = selection.minimum(selection.maximum(first, second), maximum)
    smaller = selection.maximum(selection.minimum(first, second), minimum)
    return torch.cat((larger, smaller), dim=1)


def _require_even_channels(shape: Sequence[int], layer: str) -> None:
    if not shape or shape[0] % 2:
        raise ValueError(f"{layer} pairs channels: expected an even number of them, got shape {tuple(shape)}.")


class ClippedReLU(nn.Module):
    """ReLU with one learnable upper threshold a neuron: min(max(z, 0), threshold).

    Args:
        shape: the input's shape without the batch dimension.
        threshold: initial threshold, >= 0. Kept >= 0 in training.

    The parameter `threshold` has shape (1, *shape).

    Raises:
        ValueError: if `threshold` is negative or NaN.
    """

    def __init__(self, shape: Sequence[int], threshold: float = 1.0) -> None:
        super().__init__()
        if not threshold >= 0:
            raise ValueError(f"Expected `threshold` >= 0, got {threshold}.")
        self.threshold = nn.Parameter(torch.full((1, *shape), float(threshold)))

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply `clipped_relu` to `inputs`, (B, *shape)."""
        return clipped_relu(inputs, self.threshold)


class MaxMin(nn.Module):
    """Sort every pair of channels: larger values in the first half, smaller in the second.

    Raises:
        ValueError: in `forward`, if the number of channels is odd.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply `max_min` to `inputs`, (B, C, ...)."""
        _require_even_channels(inputs.shape[1:], "MaxMin")
        return max_min(inputs)


class ClippedMaxMin(nn.Module):
    """MaxMin whose larger outputs are clipped from above and smaller ones from below.

    Args:
        shape: the input's shape (C, ...) without the batch dimension, C even.
        max: initial upper threshold of the larger half.
        min: initial lower threshold of the smaller half.

    The parameters `max` and `min` have shape (1, C/2, ...).

    Raises:
        ValueError: if C is odd or a threshold is NaN.
    """

    def __init__(self, shape: Sequence[int], max: float = 1.0, min: float = -1.0) -> None:
        super().__init__()
        _require_even_channels(shape, "ClippedMaxMin")
        if math.isnan(max) or math.isnan(min):
            raise ValueError(f"Expected numbers for `max` and `min`, got {max} and {min}.")
        half = (1, shape[0] // 2, *shape[1:])
        self.max = nn.Parameter(torch.full(half, float(max)))
        self.min = nn.Parameter(torch.full(half, float(min)))

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply `clipped_max_min` to `inputs`, (B, C, ...)."""
        _require_even_channels(inputs.shape[1:], "ClippedMaxMin")
        return clipped_max_min(inputs, self.max, self.min)
