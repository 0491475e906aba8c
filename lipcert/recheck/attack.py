"""Projected gradient descent inside balls: it looks for what certificates say cannot be."""

import torch
from torch import Tensor, nn

INSIDE = 1 - 1e-6
"""Attacks stay within this fraction of the radius, so that rounding of pixels never leads outside."""


def lengths(values: Tensor) -> Tensor:
    """Return the l2 norm of each of a batch, (B, 1, 1, ...), float64, never 0."""
    norms = values.detach().double().flatten(1).norm(dim=1).clamp(min=1e-30)
    return norms.view(-1, *(1 for _ in values.shape[1:]))


def scaled(directions: Tensor, radii: Tensor) -> Tensor:
    """Return each of a batch of directions at a length of its own, `radii` (B,)."""
    return directions * (radii.view_as(lengths(directions)) / lengths(directions)).to(directions.dtype)


def differences(logits: Tensor, labels: Tensor) -> Tensor:
    """Return z_label - z_j for every class j, (B, K); infinity for the label itself."""
    own = labels.unsqueeze(1)
    return (logits.gather(1, own) - logits).scatter(1, own, torch.inf)


def descend(
    model: nn.Module, images: Tensor, labels: Tensor, radii: Tensor, clip_input: bool, steps: int, start: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the points within the balls at which the least margins were found, as `images`, and these margins, (B,).

    Args:
        model: in eval mode, executed in its own dtype.
        images: (B, C, H, W) in that dtype.
        labels: (B,), the classes whose margins over all others are lowered.
        radii: (B,), float64.
        clip_input: search [0, 1] only.
        steps: of the descents, whose lengths fall from half a radius to 0.
        start: as `images`; where the descents start, brought inside the balls.
    """

    def projected(points: Tensor) -> Tensor:
        change = points - images
        points = images + scaled(change, torch.minimum(radii * INSIDE, lengths(change).flatten()))
        return points.clamp(0, 1) if clip_input else points

    best, least = images, torch.full_like(radii, torch.inf)
    points = projected(start)
    for step in range(steps + 1):
        points = points.detach().requires_grad_()
        margins = differences(model(points), labels).amin(dim=1)
        better = (margins.detach() < least) & (lengths(points - images).flatten() <= radii)
        best = torch.where(better.view(-1, *(1 for _ in images.shape[1:])), points.detach(), best)
        least = torch.where(better, margins.detach().double(), least)
        (gradient,) = torch.autograd.grad(margins.sum(), points)
        points = projected(points.detach() - scaled(gradient, radii / 2 * (1 - step / (steps + 1))))
    return best, least


def attack(
    model: nn.Module,
    image: Tensor,
    label: int,
    epsilon: float,
    clip_input: bool,
    steps: int = 30,
    restarts: int = 5,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, float]:
    """Return the point within `epsilon` of `image` at which the least margin of `label` was found, and this margin.

    Args:
        model, clip_input, steps: as in `descend`.
        image: (C, H, W) in the dtype of the network.
        label: the class whose margin over all others is lowered.
        epsilon: radius of the ball.
        restarts: descents; one from the image, others from random points of the sphere.
        generator: of the random points; fresh ones when None.
    """
    start = torch.randn(restarts, *image.shape, generator=generator, dtype=torch.float64).to(image.dtype)
    start[0] = 0
    images, radii = image.expand_as(start), torch.full((restarts,), epsilon, dtype=torch.float64)
    labels = torch.full((restarts,), label)
    points, margins = descend(model, images, labels, radii, clip_input, steps, images + start * 1e3 * epsilon)
    return points[margins.argmin()], float(margins.min())
