"""Layers that wrap others or come first: residual blocks, and normalisation, so that epsilon lives in pixel space."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Map channel c of an image to (x - mean[c]) / std[c].

    Args:
        mean: one value a channel, in pixels of [0, 1].
        std: one value a channel, > 0.

    Raises:
        ValueError: if lengths differ or a `std` is not positive.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not mean:
            raise ValueError(f"Expected as many means as stds, got {len(mean)} and {len(std)}.")
        if not all(value > 0 for value in std):
            raise ValueError(f"Expected every `std` > 0, got {list(std)}.")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.get_default_dtype()))
        self.register_buffer("std", torch.tensor(std, dtype=torch.get_default_dtype()))
        self.mean: Tensor
        self.std: Tensor

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalise `inputs`, (B, C, ...)."""
        per_channel = (-1, *(1 for _ in range(inputs.dim() - 2)))
        return (inputs - self.mean.view(per_channel)) / self.std.view(per_channel)


class Residual(nn.Module):
    """Add a branch to a shortcut: branch(h) + shortcut(h).

    Args:
        branch: any supported module.
        shortcut: any supported module; the identity when left out.
    """

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = nn.Identity() if shortcut is None else shortcut

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the sum for `inputs`, (B, ...)."""
        return self.branch(inputs) + self.shortcut(inputs)
