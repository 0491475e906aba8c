"""Activations as clamps of entries that lie in a ball cut by a box."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lipcert.recheck.activations import Activation, masks
from lipcert.recheck.ball_box import Choice, Clamp, Relaxed
from lipcert.recheck.reach import SLACK

ROOT = 2**0.5

Box = tuple[Tensor, Tensor]
Choices = Mapping[Clamp, Choice]


@dataclass(frozen=True, eq=False)
class Bends:
    """An activation as clamps over what is known of its inputs.

    Of a pair (a, b) with t = (a - b)/√2 the larger is b + √2 max(t, 0), the smaller a - √2 max(t, 0): `inner` clamps t,
    `outer` what comes out. Unpaired inputs have one clamp, `inner`. `size`: the largest moduli of inputs, (N,);
    `needed`: 1 for inputs that a varying output depends on, (1, ...).
    """

    paired: bool
    size: Tensor
    needed: Tensor
    inner: Clamp
    outer: Clamp | None = None

    def relax(
        self, rows: Tensor, arriving: Tensor, choices: Choices, chosen: dict[Clamp, Tensor]
    ) -> tuple[Tensor, Relaxed]:
        """Return rows of the inputs for those of the outputs, (R, *shape), and what goes with them.

        Args:
            rows: of the outputs.
            arriving: their curvature, (R,); that of the result is about all inputs that are near.
            choices: of clamps; others choose by themselves.
            chosen: takes the room of each clamp.
        """
        flat, outer = rows.flatten(1), None
        if self.outer is not None:
            outer = self.outer.relax(flat, arriving, choices.get(self.outer))
            flat, arriving = outer.rows, outer.curvature
            chosen[self.outer] = outer.room
        if not self.paired:
            relaxed = self.inner.relax(flat, arriving, choices.get(self.inner))
            flat = relaxed.rows
        else:
            larger, smaller = flat.chunk(2, dim=1)
            relaxed = self.inner.relax((larger - smaller) * ROOT, arriving, choices.get(self.inner))
            flat = torch.cat((smaller + relaxed.rows / ROOT, larger - relaxed.rows / ROOT), dim=1)
            size = 4 * (larger.detach().abs() + smaller.detach().abs()) @ torch.maximum(*self.size.chunk(2))
            relaxed = replace(relaxed, size=relaxed.size + size)
        chosen[self.inner] = relaxed.room
        if outer is not None:
            relaxed = replace(relaxed, constant=relaxed.constant + outer.constant, size=relaxed.size + outer.size)
        return flat.view_as(rows), relaxed


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
        inner = _clamp(box, (activation.floor, activation.high), center, mask.needed, radius)
        return Bends(False, size, mask.needed, inner)
    first, second = center.chunk(2, dim=1)
    between = _between(box) if difference is None else _cut(_between(box), difference)
    both = torch.minimum(*mask.needed.chunk(2, dim=1))
    inner = _clamp(between, (zero, infinity), (first - second) / ROOT, both, radius, sorts=True)
    if bool(activation.high.isinf().all() and activation.low.isinf().all()):
        return Bends(True, size, mask.needed, inner)
    sort = Activation(activation.name, True, infinity, -infinity)
    low = torch.cat((torch.full_like(first, -torch.inf), activation.low.expand_as(first)), dim=1)
    high = torch.cat((activation.high.expand_as(first), torch.full_like(first, torch.inf)), dim=1)
    outer = _clamp((sort(box[0]), sort(box[1])), (low, high), sort(center), mask.varying, radius)
    return Bends(True, size, mask.needed, inner, outer)


def _clamp(box: Box, kinks: Box, center: Tensor, near: Tensor, radius: float, sorts: bool = False) -> Clamp:
    lower, upper, low, high = (each.expand_as(center).flatten() for each in (*box, *kinks))
    return Clamp(lower, upper, low, high, center.flatten(), near.flatten() > 0, radius, sorts)


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
