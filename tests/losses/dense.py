"""A dense network, and the same in numpy with its exact global Lipschitz constants: an oracle for margin losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lipcert.bounds import Bound
from lipcert.losses import Objective, Setting, Sparsity
from lipcert.nn import ClippedReLU
from tests.oracles import ExactNorms

Array = NDArray[np.float64]


def dense(classes: int, seed: int = 0) -> nn.Sequential:
    """Return a float64 network of 6 pixels, 5 clipped neurons and `classes` logits."""
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), ClippedReLU((5,), 0.8), nn.Linear(5, classes))
    with torch.no_grad():
        layers[3].weight.mul_(3)
    return layers.double()


def pixels(count: int = 8, seed: int = 1) -> Tensor:
    """Return images of 6 pixels in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, 2, 3, generator=generator, dtype=torch.float64)


def setting(epsilon: float, bound: Bound = Bound.GLOBAL, sparsity: float = 0.0) -> Setting:
    """Return a setting with exact norms."""
    return Setting(epsilon, 1.0, bound, ExactNorms(), Sparsity(sparsity))


@dataclass(frozen=True)
class Numbers:
    """Logits (B, K), and ||w_j - w_y|| ||W|| of every pair (B, K)."""

    logits: Array
    slopes: Array


def numbers(values: list[Array], images: Array, labels: Array) -> Numbers:
    """Evaluate the network with the parameters `values`, in the order of `dense(...).parameters()`."""
    first, first_bias, threshold, last, last_bias = values
    hidden = np.clip(images.reshape(len(images), -1) @ first.T + first_bias, 0, threshold)
    lengths = np.sqrt(((last[None, :, :] - last[labels][:, None, :]) ** 2).sum(axis=2))
    return Numbers(hidden @ last.T + last_bias, lengths * np.linalg.svd(first, compute_uv=False)[0])


def numbers_of(model: nn.Module, images: Tensor, labels: Tensor) -> Numbers:
    """Evaluate `model`'s own parameters."""
    return numbers(_values(model), images.numpy(), labels.numpy())


def _values(model: nn.Module) -> list[Array]:
    return [parameter.detach().numpy().copy() for parameter in model.parameters()]


def assert_gradient(
    model: nn.Module, images: Tensor, labels: Tensor, objective: Objective, oracle: Callable[[Numbers], float]
) -> None:
    """Compare every gradient of the loss with central differences of `oracle`, in numpy."""
    gradients = torch.autograd.grad(objective.loss, list(model.parameters()))
    values = _values(model)
    step = 1e-6
    for value, gradient in zip(values, gradients, strict=True):
        expected = np.zeros_like(value)
        for index in np.ndindex(value.shape):
            kept = value[index]
            ends = []
            for moved in (kept - step, kept + step):
                value[index] = moved
                ends.append(oracle(numbers(values, images.numpy(), labels.numpy())))
            value[index] = kept
            expected[index] = (ends[1] - ends[0]) / (2 * step)
        np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-5, atol=1e-7)
