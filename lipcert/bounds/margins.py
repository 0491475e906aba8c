"""Exact worst margins over a ball intersected with a box (eq. 24).

For K classes, B images and n inputs the directions w_j - w_y are a tensor of B·K·n entries, and so is all that leads
from them to the margins: `pair_support` makes it for some classes at a time, forward and backward. By the envelope
theorem the gradient needs nothing but the maximiser δ(t) = clip(t d, lower, upper), which follows from d and t.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lipcert.bounds.rounding import l2_norm
from lipcert.nn.activations import minimum

SETTLED_EVERY = 8
"""Newton rounds between two questions whether anything still moves; each makes a GPU wait for the host."""

LARGEST_CHUNK = {"cpu": 2**20, "cuda": 2**22}
"""Entries of the directions that are handled at a time, by type of device."""

LONGEST_STEP = 1e30
"""Stands for an infinite t, which 0 could not be multiplied with."""


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
        slope = torch.ops.aten.threshold_backward(slopes, limits - raised, 0).sum(-1, keepdim=True)
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
    smaller = minimum if torch.is_grad_enabled() else torch.minimum
    offset = smaller(length * slopes, reach)
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


def _chunks(rows: Tensor, label_rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield classes and their directions w_j - w_y, (B, k, n)."""
    entries = LARGEST_CHUNK.get(rows.device.type, max(LARGEST_CHUNK.values()))
    at_a_time = max(1, entries // max(1, label_rows.numel()))
    for start in range(0, len(rows), at_a_time):
        classes = slice(start, start + at_a_time)
        yield classes, rows[classes] - label_rows.unsqueeze(1)


def _largest(directions: Tensor, radius: Tensor, lower: Tensor | None, upper: Tensor | None, rounds: int) -> Maximum:
    """Return the largest values over ball and box, or over the ball alone."""
    if lower is not None and upper is not None:
        return maximum_over_box(directions, radius, lower, upper, rounds)
    lengths = l2_norm(directions)
    step = torch.where(lengths > 0, radius.view(-1, 1) / lengths, 0)
    return Maximum(radius.view(-1, 1) * lengths, step.unsqueeze(2))


class _PairSupport(torch.autograd.Function):
    """`lower`, `upper`: (B, n), on their sides of 0, or None both."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        label_rows: Tensor,
        radius: Tensor,
        lower: Tensor | None,
        upper: Tensor | None,
        rounds: int,
    ) -> Tensor:
        values, steps = [], []
        for _, directions in _chunks(rows, label_rows):
            value, step = _largest(directions, radius, lower, upper, rounds)
            values.append(value)
            steps.append(step)
        ctx.save_for_backward(rows, label_rows, radius, lower, upper, torch.cat(steps, dim=1))
        return torch.cat(values, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, label_rows, radius, lower, upper, steps = ctx.saved_tensors
        of_rows, of_labels, of_radius = (torch.zeros_like(each) for each in (rows, label_rows, radius))
        of_lower, of_upper = (None if each is None else torch.zeros_like(each) for each in (lower, upper))
        for classes, directions in _chunks(rows, label_rows):
            step = steps[:, classes]
            weights = gradient[:, classes].unsqueeze(1)  # (B, 1, k): products with it sum over classes
            offsets = step.clamp_max(LONGEST_STEP) * directions
            if of_lower is None or of_upper is None:
                slopes = l2_norm(directions).unsqueeze(2)
            else:
                step = step.clamp_min(torch.finfo(step.dtype).tiny)  # 0 for a radius of 0
                slopes = radius.view(-1, 1, 1) / step
                low, high = lower.unsqueeze(1), upper.unsqueeze(1)
                offsets = torch.maximum(torch.minimum(offsets, high), low)
                of_upper += torch.bmm(weights, (directions - high / step).clamp_min_(0))[:, 0]
                of_lower += torch.bmm(weights, (directions - low / step).clamp_max_(0))[:, 0]
            of_radius += torch.bmm(weights, slopes)[:, 0, 0]
            of_labels -= torch.bmm(weights, offsets)[:, 0]
            of_rows[classes] = offsets.mul_(weights.mT).sum(dim=0)
        return of_rows, of_labels, of_radius, of_lower, of_upper, None


def pair_support(
    rows: Tensor, label_rows: Tensor, radius: Tensor, lower: Tensor | None, upper: Tensor | None, rounds: int = 100
) -> Tensor:
    """Return max { (w_j - w_y)·δ : ‖δ‖₂ <= radius, lower <= δ <= upper } for every class j, (B, K), as `support` does.

    Memory is that of (B, K), (B, n) and (K, n), in the backward pass too; second derivatives are not there.

    Args:
        rows: w_j, (K, n).
        label_rows: w_y, (B, n).
        radius: (B,), >= 0.
        lower, upper: (B, n) with lower <= 0 <= upper, or None for no box.
        rounds: Newton rounds at most, as for `support`.
    """
    if lower is None or upper is None:
        return _PairSupport.apply(rows, label_rows, radius, None, None, rounds)
    return _PairSupport.apply(rows, label_rows, radius, lower.clamp_max(0), upper.clamp_min(0), rounds)
