"""Small networks trained on digits in a second, whose weights are held small so that much is certified."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from lipcert.certificates import certify
from lipcert.data import load_images
from lipcert.nn import build
from lipcert.soundness.attacked import Certified, Strength

EPSILON = 0.1
QUICK = Strength(steps=20, restarts=2, queries=60, batch_size=64, seed=0)
DESCRIPTION = {"data": "digits", "model": "small", "activation": "clipped_relu", "epsilon": EPSILON}


@cache
def trained(activation: str) -> nn.Module:
    """Return a network that certifies well over a hundred of the test images."""
    torch.manual_seed(0)
    network, train = build("small", (1, 8, 8), 10, activation), load_images("digits").train
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(120):
        images, labels = train[torch.randint(len(train), (128,))]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        with torch.no_grad():
            for layer in network.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    layer.weight.mul_((2.0 / torch.linalg.matrix_norm(layer.weight.flatten(1), 2)).clamp_max(1))
    return network.eval()


def digits(count: int) -> tuple[Tensor, Tensor]:
    """Return the first test images of digits, (count, 1, 8, 8), and their labels."""
    return load_images("digits").test.first(count)[:]


@cache
def certified(activation: str, count: int = 160, epsilon: float = EPSILON) -> tuple[Certified, Tensor]:
    """Return the certified ones among the first test images, and the stages that certified them."""
    images, labels = digits(count)
    certificate = certify(trained(activation), images, labels, epsilon)
    rows = certificate.certified.nonzero()[:, 0]
    everything = Certified(epsilon, images, labels, certificate.margin, certificate.rounding, torch.arange(count))
    return everything.rows(rows), certificate.stage[rows]
