"""Residual blocks, as sums or as one linear layer, and normalisation, so that epsilon lives in pixel space."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.parametrize import register_parametrization


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


class LinearResidual(nn.Module):
    """A weight W as that of x + scale * W x, which is one linear layer; a parametrization, the same at each use.

    Args:
        scale: learned from here on.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight of the sum, as large as that of the branch: (C, C), or (C, C, k, k) with k odd."""
        identity = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
        if weight.dim() == 4:
            rows, columns = (size // 2 for size in weight.shape[2:])
            identity = pad(identity[..., None, None], (columns, columns, rows, rows))
        return identity + self.scale * weight


def parametrize_residual(layer: nn.Linear | nn.Conv2d, scale: float) -> nn.Linear | nn.Conv2d:
    """Return `layer` itself, its weight parametrized by `LinearResidual`.

    Args:
        layer: dense or a convolution, with outputs as large as inputs.
        scale: of the branch at the start.

    Raises:
        ValueError: for a layer whose output is not of the shape of its input.

    Source: Hu et al. 2023, Unlocking Deterministic Robustness Certification on ImageNet (LiResNet).
    """
    fits = (
        layer.in_features == layer.out_features
        if isinstance(layer, nn.Linear)
        else layer.in_channels == layer.out_channels
        and (layer.stride, layer.dilation, layer.groups) == ((1, 1), (1, 1), 1)
        and all(size % 2 for size in layer.kernel_size)
        and layer.padding == tuple(size // 2 for size in layer.kernel_size)
    )
    if not fits:
        raise ValueError(f"Expected a layer whose output has the shape of its input, as the sum needs, got {layer}.")
    register_parametrization(layer, "weight", LinearResidual(scale))
    return layer
