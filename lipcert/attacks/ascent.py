"""Projected gradient ascent of any loss inside the ball and the box: the inner problem of adversarial training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lipcert.attacks.containment import PIXELS, Box, column, contained, lengths, project


def uniform_in_ball(images: Tensor, epsilon: float) -> Tensor:
    """Return one point for each image, uniform in its ball, by torch's global random state, (B, ...)."""
    directions = torch.randn_like(images)
    radii = epsilon * torch.rand(len(images), dtype=images.dtype, device=images.device) ** (1 / images[0].numel())
    return images + directions * column(radii / lengths(directions), images)


def steepest(gradient: Tensor) -> Tensor:
    """Return each image's direction of steepest ascent, of length 1, or 0 where the gradient vanishes, (B, ...)."""
    largest = gradient.flatten(1).abs().amax(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
    scaled = gradient / column(largest, gradient)  # the squares of small entries would underflow
    return scaled / column(lengths(scaled).clamp_min(1), gradient)


def projected_ascent(
    loss: Callable[[Tensor], Tensor],
    images: Tensor,
    start: Tensor,
    epsilon: float,
    steps: int,
    step_size: float,
    box: Box = PIXELS,
) -> Tensor:
    """Return the points at which projected gradient ascent ends, (B, ...); no gradient reaches any parameter.

    Args:
        loss: maps points (B, ...) to a sum over images, ().
        images: (B, ...), pixels in `box`.
        start: (B, ...), where to begin; moved inside first.
        epsilon: l2 radius.
        steps: how many, each of l2 length `step_size`.
        box: pixels allowed.

    Source: Madry et al. 2018, with l2 in place of l-infinity balls.
    """
    points = project(start.detach(), images, epsilon, box)
    for _ in range(steps):
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss(points.requires_grad_()), points)
        points = project(points.detach() + step_size * steepest(gradient), images, epsilon, box)
    return contained(points, images, epsilon, box)
