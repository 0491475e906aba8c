"""The largest value of a linear function over a ball cut by a box, never below the truth."""

import torch
from torch import Tensor


def maximum_over(gradients: Tensor, radius: float, lower: Tensor, upper: Tensor, iterations: int = 60) -> Tensor:
    """Return upper bounds of max { d·δ : |δ|₂ <= radius, lower <= δ <= upper } for each row d, (J,).

    For every multiplier μ >= 0, Lagrange's dual  Σ max_{lower <= δ <= upper} (d δ - μ δ²/2) + μ radius²/2  is an upper
    bound; μ is sought by bisection of |clip(d / μ)| = radius on a logarithmic scale, and the best value is returned.

    Args:
        gradients: (J, N).
        radius: >= 0.
        lower: (N,), <= 0.
        upper: (N,), >= 0.
        iterations: of the bisection.
    """
    unconstrained = _support(gradients, lower, upper)
    norms = gradients.norm(dim=1)
    best = torch.minimum(unconstrained, norms * radius)
    if radius <= 0:
        return torch.zeros_like(best)
    # The maximiser over the ball alone has μ = |d| / radius; the box can only lower it.
    high = (norms / radius).clamp(min=1e-200).log()  # a gradient of 0 has any
    low = high - 40
    for _ in range(iterations):
        middle = (low + high) / 2
        multiplier = middle.exp()[:, None]
        point = (gradients / multiplier).clamp(lower, upper)
        length = point.square().sum(dim=1)
        dual = (gradients * point - multiplier / 2 * point.square()).sum(dim=1) + multiplier[:, 0] / 2 * radius**2
        best = torch.minimum(best, dual)
        too_long = length > radius**2
        low, high = torch.where(too_long, middle, low), torch.where(too_long, high, middle)
    return best.clamp(min=0)


def _support(gradients: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    return torch.maximum(gradients * lower, gradients * upper).sum(dim=1)
