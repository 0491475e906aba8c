"""Layers that move channels: padding with zeros, cutting off, neighbours to halves and back."""

import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.nn.activations import MaxMin


class ChannelPad(nn.Module):
    """Add channels of zeros, or cut channels off where a number is negative.

    Args:
        before, after: how many channels to add in front and behind.

    With it a sum concatenates: `Residual(Sequential(f, ChannelPad(0, n)), Sequential(g, ChannelPad(m, 0)))`.
    """

    __constants__ = ("before", "after")

    def __init__(self, before: int = 0, after: int = 0) -> None:
        super().__init__()
        self.before, self.after = before, after

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"before={self.before}, after={self.after}"

    def forward(self, inputs: Tensor) -> Tensor:
        """Pad or cut `inputs`, (B, C, ...)."""
        unchanged = (0, 0) * (inputs.dim() - 2)
        return F.pad(inputs, (*unchanged, self.before, self.after))


class PairsToHalves(nn.Module):
    """Move channels (2k, 2k + 1) to the places k of the first and of the second half."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Move the channels of `inputs`, (B, C, ...), C even."""
        return inputs.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2)


class HalvesToPairs(nn.Module):
    """Move channels k of the first and of the second half to (2k + 1, 2k): ascending, where the first are larger."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Move the channels of `inputs`, (B, C, ...), C even."""
        return inputs.unflatten(1, (2, -1)).flip(1).transpose(1, 2).flatten(1, 2)


class GroupSort2(nn.Sequential):
    """Sort adjacent channels: (2k, 2k + 1) become (min, max), of images and of vectors (Anil, Lucas, Grosse 2019)."""

    def __init__(self) -> None:
        super().__init__(PairsToHalves(), MaxMin(), HalvesToPairs())
