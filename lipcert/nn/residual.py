"""Residual blocks."""

from __future__ import annotations

from torch import Tensor, nn


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
