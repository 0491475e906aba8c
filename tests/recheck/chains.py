"""Chains of single neurons: hardly anything stands between a bound and what it is of."""

import torch
from torch import nn

from lipcert.nn import Residual
from tests.networks import activation

PAIRED = ("maxmin", "clipped_maxmin", "householder")


def narrow(kind: str, residual: bool, seed: int) -> nn.Sequential:
    """Return a steep network of as many neurons a layer as the activation takes, one or two."""
    torch.manual_seed(seed)
    width = 2 if kind in PAIRED else 1

    def dense() -> nn.Linear:
        layer = nn.Linear(width, width)
        nn.init.orthogonal_(layer.weight, 1.5)
        nn.init.uniform_(layer.bias, -0.3, 0.3)
        return layer

    def block() -> nn.Sequential:
        return nn.Sequential(dense(), activation(kind, (width,)), dense())

    layers = [*block(), *block()[1:]]
    if residual:  # two ways from one activation, or from the image, to others
        twice = block()
        layers = [*block()[: 2 * (seed % 2)], Residual(twice, twice), *block()[2 * (seed % 3 > 0) :]]
    return nn.Sequential(*layers).double().eval().requires_grad_(False)
