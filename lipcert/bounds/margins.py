"""Exact worst margins over a ball intersected with a box (eq. 24)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lipcert.nn.selection import keep_where_positive, minimum

SETTLED_EVERY = 8
"""Newton rounds between two questions whether anything still moves; each makes a GPU wait for the host."""


def l2_norm(vectors: Tensor) -> Tensor:
    """Return the l2 norm over the last dimension, right where squares would underflow, infinite where an entry is."""
    largest = vectors.detach().abs().amax(dim=-1, keepdim=True)
    unit = torch.where((largest > 0) & largest.isfinite(), largest, 1)
    return unit[..., 0] * torch.linalg.vector_norm(vectors / unit, dim=-1)


@torch.no_grad()
def _step_length(directions: Tensor, radius: Tensor, reach: Tensor, rounds: int) -> Tensor:
    """Return t with sum min(t |d_i|, reach_i)^2 = radius^2, infinity where the whole box lies in the ball.

    The sum is concave and piecewise linear in t^2, so Newton's method in t^2 rises to the root from below and
    stands still on it after at most as many rounds as there are entries, usually fewer than six.
    """
    slopes, limits, target = directions.square(), reach.square(), radius.square()
    tiny = torch.finfo(directions.dtype).tiny
    square = target / slopes.sum(-1, keepdim=True).clamp_min(tiny)
    for index in range(1, rounds + 1):
        raised = slopes * square
        slope = keep_where_positive(slopes, limits - raised).sum(-1, keepdim=True)
        missing = target - torch.minimum(raised, limits).sum(-1, keepdim=True)
        advanced = square + missing.clamp_min(0) / slope
        updated = torch.where(slope > 0, advanced, torch.where(missing >= 0, torch.inf, square))
        settled = index % SETTLED_EVERY == 0 and torch.equal(updated, square)
        square = updated
        if settled:
            break
    return square.sqrt()


class Maximum(NamedTuple):
    """A largest value, (B, K), and the t at which it was found, (B, K, 1); infinity where the box alone binds."""

    value: Tensor
    step: Tensor


def maximum_over_box(directions: Tensor, radius: Tensor, lower: Tensor, upper: Tensor, rounds: int) -> Maximum:
    """Return what `support` does for a box, and where it is attained: at δ(t) = clip(t d, lower, upper)."""
    radius = radius.view(-1, 1, 1)
    low, high = lower.clamp_max(0).unsqueeze(-2), upper.clamp_min(0).unsqueeze(-2)
    rising = (directions > 0).to(directions.dtype)
    reach = rising * high - (1 - rising) * low  # how far the entry may follow the direction's sign
    slopes = directions.abs()
    step = _step_length(slopes, radius, reach, rounds)
    boxed = step.isinf()
    length = torch.where(boxed, 1, step).clamp_min(torch.finfo(step.dtype).tiny)  # 0 for a radius of 0
    offset = minimum(length * slopes, reach)
    price = (radius.square() - offset.square().sum(-1, keepdim=True)) / (2 * length)
    within = (slopes * offset).sum(-1, keepdim=True) + price
    return Maximum(torch.where(boxed, (slopes * reach).sum(-1, keepdim=True), within)[..., 0], step)


def support(
    directions: Tensor,
    radius: Tensor,
    lower: Tensor | None,
    upper: Tensor | None,
    rounds: int = 100,
) -> Tensor:
    """Return max { d·δ : ‖δ‖₂ <= radius, lower <= δ <= upper }, never below the true maximum.

    Args:
        directions: d, (B, K, n).
        radius: (B,), >= 0.
        lower, upper: (B, n) with lower <= 0 <= upper, or None for no box.
        rounds: Newton rounds at most; fewer give a looser value, still an upper bound.

    Returns:
        (B, K). The value is Lagrange's dual r²/(2t) + Σ dδ(t) - δ(t)²/(2t) at δ(t) = clip(t d, lower, upper): at any
        t > 0 an upper bound, at the t found the maximum, with the maximum's gradient by the envelope theorem.
        A direction d is handled as |d| and how far the box lets each entry follow the sign of d.
    """
    if lower is None or upper is None:
        return radius.view(-1, 1) * l2_norm(directions)
    return maximum_over_box(directions, radius, lower, upper, rounds).value
