"""Activations as clamps of entries that lie in a ball cut by a box."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.recheck.activations import Activation, masks
from lipcert.recheck.ball_box import Clamp
from lipcert.recheck.reach import SLACK

ROOT = 2**0.5

Box = tuple[Tensor, Tensor]
Slopes = Mapping[Clamp, Tensor]


@dataclass(frozen=True, eq=False)
class Bends:
    """An activation as clamps over what is known of its inputs.

    Of a pair (a, b) with t = (a - b)/√2 the larger is b + √2 max(t, 0), the smaller a - √2 max(t, 0): `inner` clamps t,
    `outer` what comes out. Unpaired inputs have one clamp, `inner`. `size`: the largest moduli of inputs, (N,).
    """

    paired: bool
    size: Tensor
    inner: Clamp
    outer: Clamp | None = None

    def relax(self, rows: Tensor, slopes: Slopes) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows of the inputs for those of the outputs, (R, *shape), constants and their size, (R,)."""
        flat, constant, size = rows.flatten(1), rows.new_zeros(len(rows)), rows.new_zeros(len(rows))
        if self.outer is not None:
            relaxed = self.outer.relax(flat, slopes.get(self.outer, self.outer.hull))
            flat, constant, size = relaxed.rows, relaxed.constant, relaxed.size
        larger, smaller = flat.chunk(2, dim=1)
        relaxed = self.inner.relax(
            (larger - smaller) * ROOT if self.paired else flat, slopes.get(self.inner, self.inner.hull)
        )
        flat, size = relaxed.rows, size + relaxed.size
        if self.paired:
            size = size + 4 * (larger.detach().abs() + smaller.detach().abs()) @ torch.maximum(*self.size.chunk(2))
            flat = torch.cat((smaller + flat / ROOT, larger - flat / ROOT), dim=1)
        return flat.view_as(rows), constant + relaxed.constant, size


def bends_of(activation: Activation, box: Box, center: Tensor, radius: float, difference: Box | None) -> Bends:
    """Return an activation's clamps.

    Args:
        activation: as described.
        box: of its inputs, (1, ...) each.
        center: (1, ...), from which inputs that a varying output depends on move by at most `radius` in l2.
        radius: of that ball.
        difference: interval of t of every pair, of as many entries, if one is known that may be smaller.
    """
    mask = masks(activation, *box)
    size = torch.stack((*box, center)).abs().amax(dim=0).flatten()
    zero, infinity = center.new_zeros(()), center.new_full((), torch.inf)
    if not activation.paired:
        return Bends(False, size, _clamp(box, (activation.floor, activation.high), center, mask.needed, radius))
    first, second = center.chunk(2, dim=1)
    between = _between(box) if difference is None else _cut(_between(box), difference)
    both = torch.minimum(*mask.needed.chunk(2, dim=1))
    inner = _clamp(between, (zero, infinity), (first - second) / ROOT, both, radius)
    if bool(activation.high.isinf().all() and activation.low.isinf().all()):
        return Bends(True, size, inner)
    sort = Activation(activation.name, True, infinity, -infinity)
    low = torch.cat((torch.full_like(first, -torch.inf), activation.low.expand_as(first)), dim=1)
    high = torch.cat((activation.high.expand_as(first), torch.full_like(first, torch.inf)), dim=1)
    outer = _clamp((sort(box[0]), sort(box[1])), (low, high), sort(center), mask.varying, radius)
    return Bends(True, size, inner, outer)


def _clamp(box: Box, kinks: Box, center: Tensor, near: Tensor, radius: float) -> Clamp:
    lower, upper, low, high = (each.expand_as(center).flatten() for each in (*box, *kinks))
    return Clamp(lower, upper, low, high, center.flatten(), near.flatten() > 0, radius)


def _between(box: Box) -> Box:
    """Return the interval of (a - b)/√2 for every pair in a box; its sign is certain where the order is."""
    (a_lower, b_lower), (a_upper, b_upper) = (end.chunk(2, dim=1) for end in box)
    lower = (a_lower - b_upper) / ROOT - SLACK * (a_lower.abs() + b_upper.abs())
    upper = (a_upper - b_lower) / ROOT + SLACK * (a_upper.abs() + b_lower.abs())
    lower = torch.where(a_lower >= b_upper, lower.clamp(min=0), lower)
    upper = torch.where(b_lower >= a_upper, upper.clamp(max=0), upper)
    return lower, upper


def _cut(box: Box, other: Box) -> Box:
    return torch.maximum(box[0], other[0].view_as(box[0])), torch.minimum(box[1], other[1].view_as(box[1]))
