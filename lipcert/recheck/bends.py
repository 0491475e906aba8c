"""Activations as clamps of entries that lie in a ball cut by a box."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from lipcert.recheck.activations import Activation, masks
from lipcert.recheck.ball_box import ROOM, Choice, Clamp, Relaxed
from lipcert.recheck.reach import SLACK

Box = tuple[Tensor, Tensor]
Axis = tuple[Tensor, Tensor]
Choices = Mapping[Clamp, Choice]


@dataclass(frozen=True, eq=False)
class Bends:
    """An activation as clamps over what is known of its inputs.

    A pair z that is reflected where t = v·z < 0, v = `axis` of length 1, becomes z - 2 v t + 2 v max(t, 0); sorts are
    reflections along (1, -1)/√2. An entry with `slope` s below 0 becomes s t + (1 - s) max(t, 0). `inner` clamps t,
    `outer` what comes out. `size`: the largest moduli of inputs, (N,); `needed`: 1 for inputs that a varying output
    depends on, (1, ...); `axis`: (N/2,) twice, `slope`: (N,), None for others.
    """

    size: Tensor
    needed: Tensor
    inner: Clamp
    outer: Clamp | None = None
    axis: Axis | None = None
    slope: Tensor | None = None

    def price(self, curvature: Tensor) -> Tensor:
        """Return what curvature costs at most over all inputs that are near, (R,)."""
        return self.inner.price(curvature)

    def relax(
        self, rows: Tensor, arriving: Tensor, choices: Choices, chosen: dict[Clamp, Relaxed]
    ) -> tuple[Tensor, Relaxed]:
        """Return rows of the inputs for those of the outputs, (R, *shape), and what goes with them.

        Args:
            rows: of the outputs.
            arriving: their curvature, (R,); that of the result is about all inputs that are near.
            choices: of clamps; others choose by themselves.
            chosen: takes what each clamp was relaxed to.
        """
        flat, outer, own = rows.flatten(1), None, torch.zeros_like(arriving)
        if self.outer is not None:
            outer = self.outer.relax(flat, arriving, choices.get(self.outer))
            flat, arriving = outer.rows, outer.curvature
            chosen[self.outer] = outer
        if self.axis is not None:
            (v, w), (first, second) = self.axis, flat.chunk(2, dim=1)
            along = 2 * (v * first + w * second)
            relaxed = self.inner.relax(along, arriving, choices.get(self.inner))
            change = relaxed.rows - along
            own = 8 * (first.detach().abs() + second.detach().abs()) @ sum(self.size.chunk(2))
            flat = torch.cat((first + v * change, second + w * change), dim=1)
        elif self.slope is not None:
            relaxed = self.inner.relax((1 - self.slope) * flat, arriving, choices.get(self.inner))
            own = 4 * flat.detach().abs() @ (self.size * (1 + self.slope.abs()))
            flat = self.slope * flat + relaxed.rows
        else:
            relaxed = self.inner.relax(flat, arriving, choices.get(self.inner))
            flat = relaxed.rows
        chosen[self.inner] = relaxed
        relaxed = replace(relaxed, size=relaxed.size + own)
        if outer is not None:
            relaxed = replace(relaxed, constant=relaxed.constant + outer.constant, size=relaxed.size + outer.size)
        return flat.view_as(rows), relaxed


@dataclass(frozen=True, eq=False)
class Windows:
    """Maxima of windows between two linear functions over a box [lower, upper] of pixels, (C, pixels).

    `places`: see `Activation.windows`. A maximum is at least the pixel whose lower end is the largest, l, and at most
    l plus what all chords of max(pixel - l, 0) add up to. `size`, `needed`, `radius`: as of `Bends`; `constant`: of the
    activation.
    """

    lower: Tensor
    upper: Tensor
    places: Tensor
    size: Tensor
    needed: Tensor
    radius: float
    constant: float
    axis = None
    outer = None

    def price(self, curvature: Tensor) -> Tensor:
        """Return what curvature costs at most over all inputs that are near, (R,)."""
        return torch.where(curvature > 0, curvature / 2 * (self.radius * self.radius), 0.0)

    @cached_property
    def _lines(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return slopes below and above, (C, pixels of a window, windows), and the intercept above, (C, windows)."""
        outside = torch.full_like(self.lower[:, :1], -torch.inf)
        low, high = (torch.cat((outside, end), dim=1)[:, self.places] for end in (self.lower, self.upper))
        least, first = low.max(dim=1)
        below = torch.zeros_like(low).scatter_(1, first[:, None], 1.0)
        above = torch.where(high > least[:, None], (high - least[:, None]) / (high - low), 0.0)
        return below, above, least - torch.where(above > 0, above * low, 0.0).sum(dim=1)

    def relax(
        self, rows: Tensor, arriving: Tensor, choices: Choices, chosen: dict[Clamp, Relaxed]
    ) -> tuple[Tensor, Relaxed]:
        """Return rows of the pixels for those of the maxima, (R, C, ...), as `Bends.relax` does; nothing is chosen."""
        below, above, intercept = self._lines
        flat = rows.flatten(2)
        slopes = flat[:, :, None] * torch.where(flat[:, :, None] >= 0, below, above)
        pixels = flat.new_zeros(*flat.shape[:2], self.lower.shape[1] + 1)
        pixels = pixels.index_add(2, self.places.flatten(), slopes.flatten(2))[..., 1:]
        constant = (flat.clamp(max=0) * intercept).flatten(1).sum(dim=1)
        size = flat.detach().abs().sum(dim=2) @ (4 * len(self.places) * self.size.view(len(self.lower), -1).amax(dim=1))
        curvature = arriving * ((1 + ROOM) * self.constant**2)
        return pixels, Relaxed(
            rows.flatten(1), pixels.flatten(1), constant, curvature, torch.zeros_like(arriving), size
        )


def bends_of(
    activation: Activation, box: Box, center: Tensor, radius: float, difference: Box | None
) -> Bends | Windows:
    """Return an activation's clamps, or lines.

    Args:
        activation: as described.
        box: of its inputs, (1, ...) each.
        center: (1, ...), from which inputs that a varying output depends on move by at most `radius` in l2.
        radius: of that ball.
        difference: interval of t of every pair, of as many entries, if one is known that may be smaller.
    """
    mask = masks(activation, *box)
    size = torch.stack((*box, center)).abs().amax(dim=0).flatten()
    places = activation.windows(center)
    if places is not None:
        lower, upper = (end[0].flatten(1) for end in box)
        return Windows(lower, upper, places, size, mask.needed, radius, activation.constant)
    axis, slope, kinks = activation.axis, activation.slope_below, (center.new_zeros(()), center.new_full((), torch.inf))
    if axis is None and slope is None:
        inner = _clamp(box, (activation.floor, activation.high), center, mask.needed, radius)
        return Bends(size, mask.needed, inner)
    if slope is not None:
        slope = slope.view(1, -1, *(1 for _ in center.shape[2:])).expand_as(center).flatten()
        inner = _clamp(box, kinks, center, mask.needed, radius, slope, activation.constant)
        return Bends(size, mask.needed, inner, slope=slope)
    assert axis is not None
    first, second = center.chunk(2, dim=1)
    v, w = (each.view(1, -1, *(1 for _ in first.shape[2:])).expand_as(first) for each in axis)
    between = _between(box, (v, w), certain=activation.paired)
    between = between if difference is None else _cut(between, difference)
    both, turn = torch.minimum(*mask.needed.chunk(2, dim=1)), torch.full_like(first, -1.0).flatten()
    inner = _clamp(between, kinks, v * first + w * second, both, radius, turn)
    flat = v.flatten(), w.flatten()
    if not activation.paired or bool(activation.high.isinf().all() and activation.low.isinf().all()):
        return Bends(size, mask.needed, inner, axis=flat)
    sort = Activation(activation.name, True, kinks[1], -kinks[1])
    low = torch.cat((torch.full_like(first, -torch.inf), activation.low.expand_as(first)), dim=1)
    high = torch.cat((activation.high.expand_as(first), torch.full_like(first, torch.inf)), dim=1)
    outer = _clamp((sort(box[0]), sort(box[1])), (low, high), sort(center), mask.varying, radius)
    return Bends(size, mask.needed, inner, outer, flat)


def _clamp(
    box: Box,
    kinks: Box,
    center: Tensor,
    near: Tensor,
    radius: float,
    turn: Tensor | None = None,
    constant: float = 1.0,
) -> Clamp:
    lower, upper, low, high = (each.expand_as(center).flatten() for each in (*box, *kinks))
    floor = 0.0 if turn is None else (1 + ROOM) * constant**2
    return Clamp(lower, upper, low, high, center.flatten(), near.flatten() > 0, radius, turn, floor)


def _between(box: Box, axis: Axis, certain: bool) -> Box:
    """Return the interval of v·z for every pair in a box; its sign is as computed where that is `certain`."""
    (a_lower, b_lower), (a_upper, b_upper) = (end.chunk(2, dim=1) for end in box)
    a, b = (axis[0] * a_lower, axis[0] * a_upper), (axis[1] * b_lower, axis[1] * b_upper)
    lower, upper = torch.minimum(*a) + torch.minimum(*b), torch.maximum(*a) + torch.maximum(*b)
    slack = SLACK * (torch.maximum(a[0].abs(), a[1].abs()) + torch.maximum(b[0].abs(), b[1].abs()))
    least, greatest = lower - slack, upper + slack
    if certain:
        least = torch.where(lower >= 0, least.clamp(min=0), least)
        greatest = torch.where(upper <= 0, greatest.clamp(max=0), greatest)
    return least, greatest


def _cut(box: Box, other: Box) -> Box:
    return torch.maximum(box[0], other[0].view_as(box[0])), torch.minimum(box[1], other[1].view_as(box[1]))
