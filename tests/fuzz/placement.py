"""Moves kinks to where a ball meets them: biases and thresholds are set as one image and its neighbours pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor, nn

from lipcert.nn import ClippedMaxMin, ClippedReLU

NEIGHBOURS = 12
"""Points on the sphere by which it is estimated how far a neuron moves."""

BIASED = (nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class Placement:
    """Where neurons lie at the image, in units of how far the ball lets them move.

    Attributes:
        near: share of the neurons with a kink inside of the ball or a little outside; others are far on one side.
        positive: share of those far ones that are positive.
        generator: of random numbers.
    """

    near: float
    positive: float
    generator: Generator

    def offsets(self, shape: torch.Size) -> Tensor:
        """Return distances from a kink, in such units."""
        near, sign, place = (torch.rand(shape, generator=self.generator, dtype=torch.float64) for _ in range(3))
        far = torch.where(sign < self.positive, 1.0, -1.0) * (1.5 + 3 * place)
        return torch.where(near < self.near, 3 * place - 1.5, far)


def sphere(image: Tensor, epsilon: float, count: int, generator: Generator) -> Tensor:
    """Return random points at a distance of `epsilon` from an image, (count, ...)."""
    directions = torch.randn(count, *image.shape, generator=generator, dtype=image.dtype)
    lengths = directions.flatten(1).norm(dim=1).view(-1, *(1 for _ in image.shape))
    return image + epsilon * directions / lengths


@torch.no_grad()
def place_kinks(model: nn.Module, image: Tensor, epsilon: float, placement: Placement) -> None:
    """Set biases and thresholds of a float64 model so that kinks lie around what it computes at the image."""
    points = torch.cat((image[None], sphere(image, epsilon, NEIGHBOURS, placement.generator)))
    with _hooked(model, placement, image.numel() ** 0.5):
        model(points)


@torch.no_grad()
def place_logits(model: nn.Sequential, image: Tensor, epsilon: float, generator: Generator) -> None:
    """Set the last layer's biases so that the nearest class is about `epsilon` away."""
    last = model[-1]
    assert isinstance(last, nn.Linear)
    with torch.enable_grad():
        point = image[None].clone().requires_grad_(True)
        logits = model(point)[0]
        gradients = [torch.autograd.grad(each, point, retain_graph=True)[0].norm() for each in logits - logits[0]]
    distances = 0.2 + 1.3 * torch.rand(len(logits), generator=generator, dtype=torch.float64)
    wanted = -epsilon * torch.stack(gradients) * distances
    last.bias.copy_(last.bias + wanted - (logits - logits[0]).detach())


def _spread(values: Tensor, root: float) -> Tensor:
    """Return about how far each neuron moves, from values at the image and its neighbours, (1 + n, *shape)."""
    return (values[1:] - values[0]).square().mean(dim=0).sqrt() * root


def _shift_bias(placement: Placement, root: float, layer: nn.Module, _: object, output: Tensor) -> Tensor | None:
    """Move a layer's bias, and its output along with it."""
    if not isinstance(layer.bias, Tensor):
        return None
    axis = 1 if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.Conv2d) else output.dim() - 1
    values = output.movedim(axis, -1).reshape(len(output), -1, output.shape[axis])  # (1 + n, places, channels)
    place = int(torch.randint(values.shape[1], (), generator=placement.generator))
    chosen = values[:, place]
    shift = placement.offsets(chosen[0].shape) * _spread(chosen, root) - chosen[0]
    layer.bias.copy_(layer.bias + shift)
    return (output.movedim(axis, -1) + shift).movedim(-1, axis)


def _at(values: Tensor, thresholds: Tensor) -> Tensor:
    """Return values at the image in the shape of thresholds, (1, *shape): the first where these are shared."""
    return values[tuple(slice(0, size) for size in thresholds.shape[1:])][None]


def _set_threshold(placement: Placement, root: float, layer: ClippedReLU, inputs: tuple[Tensor]) -> None:
    center, spread = (_at(each, layer.threshold) for each in (inputs[0][0], _spread(inputs[0], root)))
    layer.threshold.copy_((center + placement.offsets(center.shape) * spread).clamp_min(0))


def _set_pair_thresholds(placement: Placement, root: float, layer: ClippedMaxMin, inputs: tuple[Tensor]) -> None:
    first, second = inputs[0].chunk(2, dim=1)
    for threshold, values in ((layer.max, torch.maximum(first, second)), (layer.min, torch.minimum(first, second))):
        center, spread = (_at(each, threshold) for each in (values[0], _spread(values, root)))
        threshold.copy_(center + placement.offsets(center.shape) * spread)


@contextmanager
def _hooked(model: nn.Module, placement: Placement, root: float) -> Iterator[None]:
    handles = []
    for layer in model.modules():
        if isinstance(layer, BIASED):
            handles.append(layer.register_forward_hook(partial(_shift_bias, placement, root)))
        elif isinstance(layer, ClippedReLU):
            handles.append(layer.register_forward_pre_hook(partial(_set_threshold, placement, root)))
        elif isinstance(layer, ClippedMaxMin):
            handles.append(layer.register_forward_pre_hook(partial(_set_pair_thresholds, placement, root)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
