"""Householder activations: pairs of channels, each reflected where it lies behind a line of its own."""

import torch
from torch import Tensor, nn

from lipcert.nn.activations import split_pairs


def householder(inputs: Tensor, directions: Tensor) -> Tensor:
    """Return z for every pair z with v·z > 0, its reflection z - 2 v (v·z) / (v·v) for others.

    Pair i is (channel i, channel i + C/2). `inputs`: (B, C, ...) with C even; `directions`: v, (2, C/2), not (0, 0).
    """
    first, second = split_pairs(inputs)
    v, w = (each.view(-1, *(1 for _ in inputs.shape[2:])) for each in directions)
    depth = (v * first + w * second).clamp_max(0) * (2 / (v * v + w * w))
    return torch.cat((first - v * depth, second - w * depth), dim=1)


class Householder(nn.Module):
    """Reflect every pair of channels behind its line: orthogonal on both sides, so 1-Lipschitz (Singla et al. 2021).

    Args:
        channels: C, even.

    The parameter `directions`, (2, C/2), holds the normals of the lines; their lengths do not matter. It starts as
    (1, -1), with which this is MaxMin.

    Raises:
        ValueError: for an odd number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels < 2 or channels % 2:
            raise ValueError(f"Householder pairs channels: expected an even number of them, got {channels}.")
        self.directions = nn.Parameter(torch.tensor([[1.0], [-1.0]]).repeat(1, channels // 2))

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply `householder` to `inputs`, (B, C, ...).

        Raises:
            ValueError: for another number of channels.
        """
        if inputs.shape[1] != 2 * self.directions.shape[1]:
            raise ValueError(f"Expected {2 * self.directions.shape[1]} channels, got {inputs.shape[1]}.")
        return householder(inputs, self.directions)

    def extra_repr(self) -> str:
        """Return the number of channels."""
        return f"channels={2 * self.directions.shape[1]}"
