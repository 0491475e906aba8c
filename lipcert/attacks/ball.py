"""The ball and the box of an attack: which points lie in both, checked in float64, and gradient ascent inside."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lipcert.norms.krylov import lengths_of, per_image

Box = tuple[float, float]
"""Smallest and largest pixel that an attack may use."""

PIXELS: Box = (0.0, 1.0)


def unbounded(epsilon: float) -> Box:
    """Return the box around [0, 1] that no pixel leaves which moves by at most `epsilon`."""
    return (-epsilon, 1 + epsilon)


def check_pixels(images: Tensor, box: Box) -> None:
    """Raise ValueError unless every pixel of `images` lies in `box`."""
    lower, upper = box
    if not bool(((images >= lower) & (images <= upper)).all()):
        raise ValueError(
            f"Expected pixels in [{lower:g}, {upper:g}], got {images.min().item():g} to {images.max().item():g}; "
            "a normalisation belongs inside the network (lipcert.nn.Normalize)."
        )


def project(points: Tensor, images: Tensor, epsilon: float, box: Box) -> Tensor:
    """Move points into the ball, then into the box, (B, ...), up to rounding.

    The second step does not leave the ball again, for images lie in the box.
    """
    change = points - images
    shares = (epsilon / lengths_of(change).clamp_min(torch.finfo(change.dtype).tiny)).clamp_max(1)
    return (images + per_image(shares, images.dim()) * change).clamp(*box)


@torch.no_grad()
def inside(points: Tensor, images: Tensor, epsilon: float, box: Box) -> Tensor:
    """Return which points lie in the ball and the box, by their stored values in float64, (B,) bool; NaN does not.

    The ends of the box are those that the points' precision can hold.
    """
    lower, upper = (points.new_full((), end) for end in box)
    pixels = ((points >= lower) & (points <= upper)).flatten(1).all(dim=1)
    return pixels & (lengths_of(points.double() - images.double()) <= epsilon)


@torch.no_grad()
def contained(points: Tensor, images: Tensor, epsilon: float, box: Box) -> Tensor:
    """Return the points (B, ...) that lie in ball and box, others moved inside, and the image where that fails.

    Rounding of the points that are moved is taken off `epsilon`. `images`: (B, ...), pixels in `box`.
    """
    points = points.detach().to(images.dtype)
    rounding = math.sqrt(images[0].numel()) * torch.finfo(images.dtype).eps * max(map(abs, box))
    nearer = project(points.double(), images.double(), max(epsilon - rounding, 0.0), box).to(images.dtype)
    kept = torch.where(per_image(inside(points, images, epsilon, box), images.dim()), points, nearer)
    return torch.where(per_image(inside(kept, images, epsilon, box), images.dim()), kept, images)


def uniform_in_ball(images: Tensor, epsilon: float) -> Tensor:
    """Return one point for each image, uniform in its ball, by torch's global random state, (B, ...)."""
    directions = torch.randn_like(images)
    radii = epsilon * torch.rand(len(images), dtype=images.dtype, device=images.device) ** (1 / images[0].numel())
    return images + directions * per_image(radii / lengths_of(directions), images.dim())


def steepest(gradient: Tensor) -> Tensor:
    """Return each image's direction of steepest ascent, of length 1, or 0 where the gradient vanishes, (B, ...)."""
    largest = gradient.flatten(1).abs().amax(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
    scaled = gradient / per_image(largest, gradient.dim())  # the squares of small entries would underflow
    return scaled / per_image(lengths_of(scaled).clamp_min(1), gradient.dim())


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
        images, start: (B, ...), pixels in `box`, and where to begin; that is moved inside first.
        steps: how many, each of l2 length `step_size`.

    Source: Madry et al. 2018, with l2 in place of l-infinity balls.
    """
    points = project(start.detach(), images, epsilon, box)
    for _ in range(steps):
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss(points.requires_grad_()), points)
        points = project(points.detach() + step_size * steepest(gradient), images, epsilon, box)
    return contained(points, images, epsilon, box)
