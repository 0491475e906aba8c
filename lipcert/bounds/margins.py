"""Exact worst margins over a ball intersected with a box (eq. 24)."""

from __future__ import annotations

import torch
from torch import Tensor


def _bounds(tensor: Tensor | None, fill: float, like: Tensor) -> Tensor:
    return torch.full((), fill, dtype=like.dtype, device=like.device) if tensor is None else tensor


@torch.no_grad()
def _step_length(directions: Tensor, radius: Tensor, lower: Tensor, upper: Tensor, rounds: int) -> Tensor:
    """Return t with ‖clip(t d, lower, upper)‖ = radius, infinity where the whole box lies in the ball.

    ‖clip(t d)‖² is piecewise linear and concave in t²: Newton's method in t² rises to the root from below and
    ends on it once no further entry is clipped, after at most as many rounds as there are entries.
    """
    square = directions.square()
    tiny = torch.finfo(directions.dtype).tiny
    step = radius / square.sum(-1, keepdim=True).clamp_min(tiny).sqrt()
    for _ in range(rounds):
        scaled = step * directions
        # A free entry moves with t; an entry at its bound stays there.
        free = (scaled > lower) & (scaled < upper)
        offset = torch.where(directions > 0, upper, lower)
        fixed = torch.where(free | (directions == 0), 0, offset.clamp(-torch.finfo(step.dtype).max)).square().sum(-1, keepdim=True)
        moving = torch.where(free, square, 0).sum(-1, keepdim=True)
        target = ((radius.square() - fixed).clamp_min(0) / moving.clamp_min(tiny)).sqrt()
        updated = torch.where(moving > 0, torch.maximum(step, target), step)
        updated = torch.where((moving <= 0) & (fixed <= radius.square()), torch.inf, updated)
        if torch.equal(updated, step):
            break
        step = updated
    return step


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
    """
    radius = radius.view(-1, 1, 1)
    if lower is None and upper is None:
        return radius[..., 0] * torch.linalg.vector_norm(directions, dim=-1)
    low = _bounds(lower, -torch.inf, directions)
    high = _bounds(upper, torch.inf, directions)
    low = low.clamp_max(0).unsqueeze(-2) if low.dim() else low
    high = high.clamp_min(0).unsqueeze(-2) if high.dim() else high
    step = _step_length(directions, radius, low, high, rounds)
    boxed = step.isinf()
    length = torch.where(boxed, 1, step)
    offset = torch.minimum(torch.maximum(length * directions, low), high)
    within = radius.square() / (2 * length) + (directions * offset - offset.square() / (2 * length)).sum(-1, keepdim=True)
    corner = torch.maximum(directions * low, directions * high).sum(-1, keepdim=True)
    return torch.where(boxed, corner, within)[..., 0]
