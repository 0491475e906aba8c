"""Small float64 networks of every supported kind."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from lipcert.nn import ClippedMaxMin, ClippedReLU, Householder, MaxMin, Normalize, Residual
from tests.oracles import scale_weights

IMAGE = (2, 6, 6)


def activation(kind: str, shape: tuple[int, ...]) -> nn.Module:
    return {
        "relu": nn.ReLU,
        "clipped_relu": lambda: ClippedReLU(shape, 0.4),
        "maxmin": MaxMin,
        "clipped_maxmin": lambda: ClippedMaxMin(shape, 0.2, -0.2),
        "bent": lambda: _bent(shape[0]),
        "householder": lambda: _householder(shape[0]),
    }[kind]()


def _bent(channels: int) -> nn.Module:
    layer = nn.PReLU(channels)
    nn.init.uniform_(layer.weight, -1.5, 1.4)
    return layer


def _householder(channels: int) -> nn.Module:
    layer = Householder(channels)
    angles = 2 * torch.pi * torch.rand(channels // 2)
    layer.directions.data = (0.5 + torch.rand(channels // 2)) * torch.stack((angles.cos(), angles.sin()))
    return layer


def plain(kind: str) -> nn.Sequential:
    """Two convolutions, two dense layers."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, 1, 1),
        activation(kind, (4, 6, 6)),
        nn.Conv2d(4, 6, 4, 2, 1),
        activation(kind, (6, 3, 3)),
        nn.Flatten(),
        nn.Linear(54, 12),
        activation(kind, (12,)),
        nn.Linear(12, 5),
    )


def pooled(kind: str) -> nn.Sequential:
    """Normalisation, batch norm, average pooling, linear layers in a row."""
    norm = nn.BatchNorm2d(4)
    norm.running_mean.uniform_(-0.3, 0.3)  # type: ignore[union-attr]
    norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return nn.Sequential(
        Normalize([0.4, 0.5], [0.5, 0.25]),
        nn.Conv2d(2, 4, 3, padding="same", dilation=2, bias=False),
        norm,
        activation(kind, (4, 6, 6)),
        nn.AvgPool2d(3, 2, 1),
        nn.Conv2d(4, 4, 3, 1, 1, groups=2),
        activation(kind, (4, 3, 3)),
        nn.Flatten(),
        nn.Linear(36, 9),
        nn.Linear(9, 8),
        activation(kind, (8,)),
        nn.Linear(8, 6),
        nn.Identity(),
        nn.Linear(6, 4),
    )


def residual(kind: str) -> nn.Sequential:
    """Residual blocks: identity shortcut, linear block, convolutional shortcut, one within another."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, 1, 1),
        activation(kind, (4, 6, 6)),
        Residual(
            nn.Sequential(
                nn.Conv2d(4, 4, 3, 1, 1),
                activation(kind, (4, 6, 6)),
                Residual(nn.Conv2d(4, 4, 1)),
                nn.Conv2d(4, 4, 3, 1, 1),
            )
        ),
        Residual(
            nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1), activation(kind, (4, 3, 3))),
            nn.Conv2d(4, 4, 1, 2),
        ),
        activation(kind, (4, 3, 3)),
        nn.Flatten(),
        Residual(nn.Linear(36, 36)),
        nn.Linear(36, 5),
    )


NETWORKS: dict[str, Callable[[str], nn.Sequential]] = {"plain": plain, "pooled": pooled, "residual": residual}


def network(name: str, kind: str, seed: int = 0, scale: float = 0.8) -> nn.Sequential:
    """Return a reproducible network in float64 and eval mode."""
    torch.manual_seed(seed)
    return scale_weights(NETWORKS[name](kind), scale).double().eval()  # type: ignore[return-value]


def images(count: int = 3, seed: int = 1) -> torch.Tensor:
    """Return float64 images with pixels in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, *IMAGE, generator=generator, dtype=torch.float64)
