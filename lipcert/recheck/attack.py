"""Projected gradient descent inside the ball: it looks for what a certificate says cannot be."""

from __future__ import annotations

import torch
from torch import Tensor, nn

INSIDE = 1 - 1e-6
"""Attacks stay within this fraction of epsilon, so that rounding of pixels never leads outside."""


def _lengths(values: Tensor) -> Tensor:
    return values.flatten(1).double().norm(dim=1).clamp(min=1e-30).to(values.dtype).view(-1, 1, 1, 1)


def _projected(points: Tensor, image: Tensor, epsilon: float, clip_input: bool) -> Tensor:
    change = points - image
    change = change * (epsilon * INSIDE / _lengths(change)).clamp(max=1)
    points = image + change
    return points.clamp(0, 1) if clip_input else points


def _margins(model: nn.Module, points: Tensor, label: int) -> Tensor:
    """Return z_label - max of the others, (B,)."""
    logits = model(points)
    others = logits.clone()
    others[:, label] = -torch.inf
    return logits[:, label] - others.amax(dim=1)


def find_counterexample(
    model: nn.Module,
    image: Tensor,
    label: int,
    epsilon: float,
    clip_input: bool,
    steps: int = 30,
    restarts: int = 5,
    generator: torch.Generator | None = None,
) -> Tensor | None:
    """Return a point within `epsilon` of `image` that the network does not call `label`; None if none is found.

    Args:
        model: in eval mode, executed in its own dtype.
        image: (C, H, W) in that dtype.
        label: the class that is certified.
        epsilon: radius of the ball.
        clip_input: search [0, 1] only.
        steps: of each descent, whose length falls from epsilon / 2 to 0.
        restarts: descents; one from the image, others from random points of the sphere.
        generator: of the random points; fresh ones when None.
    """
    start = torch.randn(restarts, *image.shape, generator=generator, dtype=torch.float64).to(image.dtype)
    start[0] = 0
    points = _projected(image + start * 1e3 * epsilon, image, epsilon, clip_input)
    for step in range(steps + 1):
        points = points.detach().requires_grad_()
        margins = _margins(model, points, label)
        distances = (points.detach().double() - image.double()).flatten(1).norm(dim=1)
        found = (margins.detach() <= 0) & (distances <= epsilon)
        if bool(found.any()):
            return points.detach()[found][0]
        (gradient,) = torch.autograd.grad(margins.sum(), points)
        length = epsilon / 2 * (1 - step / (steps + 1))
        points = _projected(points.detach() - length * gradient / _lengths(gradient), image, epsilon, clip_input)
    return None
