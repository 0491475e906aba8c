"""Almost-orthogonal layers (AOL): weights rescaled so that a layer is 1-Lipschitz, up to rounding."""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.nn.utils.parametrize import register_parametrization


def _gram_sums(weight: Tensor) -> Tensor:
    """Return sum_j |W^T W|_ij of each input (channel) i, over offsets too for a convolution."""
    if weight.dim() == 2:
        return (weight.T @ weight).abs().sum(dim=1)
    kernels = weight.transpose(0, 1)  # (inputs, outputs, height, width)
    height, width = weight.shape[2:]
    correlations = conv2d(kernels, kernels, padding=(height - 1, width - 1))
    return correlations.abs().sum(dim=(1, 2, 3))


def almost_orthogonal(weight: Tensor) -> Tensor:
    """Return `weight` with the entries of input i multiplied by d_i = (sum_j |W^T W|_ij)^(-1/2).

    For a kernel, i and j are input channels and the sum runs over all offsets of the kernel's
    correlation with itself. That holds for stride 1; a larger stride or zero padding leaves out terms of
    a sum of squares, so the norm stays at most 1. No certificate relies on this formula.

    Args:
        weight: (outputs, inputs), or (output channels, input channels, height, width). An input whose
            weights are all 0 keeps them.

    Raises:
        ValueError: for another number of dimensions.

    Source: Prach & Lampert 2022, Almost-Orthogonal Layers for Efficient General-Purpose Lipschitz
    Networks, theorems 1 and 2.
    """
    if weight.dim() not in (2, 4):
        raise ValueError(f"Expected the weight of a Linear or Conv2d, got shape {tuple(weight.shape)}.")
    sums = _gram_sums(weight)
    scale = torch.where(sums > 0, sums, 1).rsqrt()
    return weight * scale.reshape(1, -1, *[1] * (weight.dim() - 2))


class AlmostOrthogonal(nn.Module):
    """`almost_orthogonal` as a parametrization of a weight; the same at each use, in either mode."""

    def forward(self, weight: Tensor) -> Tensor:
        """Return `almost_orthogonal(weight)`."""
        return almost_orthogonal(weight)


def parametrize_almost_orthogonal(model: nn.Module) -> None:
    """Parametrize the weight of every Linear and of every ungrouped, undilated Conv2d of `model` in place.

    Raises:
        ValueError: for a convolution with groups or dilation.
    """
    for layer in [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]:
        if isinstance(layer, nn.Conv2d) and (layer.groups != 1 or layer.dilation != (1, 1)):
            raise ValueError(f"Expected convolutions without groups or dilation, got {layer}.")
        register_parametrization(layer, "weight", AlmostOrthogonal())
