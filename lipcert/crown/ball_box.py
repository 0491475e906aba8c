"""The least value of what a line leaves of clamps, over a ball intersected with a box.

For slopes g of a row and every multiplier m > 0, on ‖z - c‖ <= r and l <= z <= u

    a·σ(z) - g·z  >=  Σ min over l_i <= t <= u_i of [a_i σ_i(t) - g_i t + (m / 2)(t - c_i)²]  -  m r² / 2,

because (m / 2)(‖z - c‖² - r²) <= 0 there. On each linear piece of σ_i, p t + (m / 2)(t - c)² is least at c - p / m,
brought into the piece, and the least piece wins. Small m give the box alone (CROWN), an infinite box the ball alone
(SDP-CROWN, Chiu et al. 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lipcert.crown.lines import Interval

ROUNDS = 12
"""Multipliers tried for each row; the bound holds at every one."""


class Remainder(NamedTuple):
    """What a ball and a box leave: Σ a_i σ_i(t) - g_i t + (d / 2)(t - c)² - (k / 2)(b_i(t) - b_i(c))² >= `value`, (R,).

    d = `curvature` follows from `multiplier`. `squares`: Σ (t - c)² + (b_i(t) - b_i(c))² where the minima are.
    """

    value: Tensor
    multiplier: Tensor
    curvature: Tensor
    squares: Tensor


@dataclass(frozen=True)
class Pieces:
    """What bends, flattened to (R, n): coefficients a, slopes g, centers c, and the clamp over its interval.

    `arriving`: k, (R,), curvature of what follows, in b(t) = clamp(t) + `turn` min(t, 0); None for none.
    `anchor`: b(c), (R, n); c need not lie in the interval. `floor`: what d exceeds, (R,), None for 0.
    """

    coefficients: Tensor
    slopes: Tensor
    center: Tensor
    anchor: Tensor
    interval: Interval
    arriving: Tensor | None = None
    turn: Tensor | float = 0.0
    floor: Tensor | None = None

    def curvature(self, multiplier: Tensor) -> Tensor:
        """Return d, (R,)."""
        return multiplier if self.floor is None else self.floor + multiplier

    @torch.no_grad()
    def minima(self, multiplier: Tensor) -> tuple[Tensor, Tensor]:
        """Return the points of `Remainder` in the interval, and its terms there, (R, n) both."""
        best, least = self._middle(multiplier)
        for side in (0, 1):
            if self._has_side(side):
                other, terms = self._side(multiplier, side)
                best, least = torch.where(terms < least, other, best), torch.minimum(terms, least)
        return best, least

    @torch.no_grad()
    def hidden(self, multiplier: Tensor) -> Tensor:
        """Return by how much the lines between minima of neighbouring pieces hide a kink, (R, 2, n), about.

        That is what an interval loses at its low and its high kink when it is not split there; 0 where one piece
        decides.
        """
        _, _, low, high = self.interval.points
        middle, least = self._middle(multiplier)
        losses = [torch.zeros_like(least), torch.zeros_like(least)]
        for side, kink in ((0, low), (1, high)):
            if not self._has_side(side):
                continue
            other, terms = self._side(multiplier, side)
            apart = (middle - other).abs()
            share = (kink - other).abs() / torch.where(apart > 0, apart, 1)
            line = share * self._bending(middle) + (1 - share) * self._bending(other)
            losses[side] = (self._bending(kink) - line - (terms - least).abs()).clamp_min(0)
        return torch.stack(losses, dim=1)

    def _middle(self, multiplier: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best points between the kinks, and the terms there."""
        _, _, low, high = self.interval.points
        d, k = self._curvatures(multiplier)
        pull = d * self.center + self.slopes - self.coefficients - k * self.anchor
        points = _stationary(pull, d - k, low, high)
        return points, self._terms(points, self._clamped(points), d)

    def _has_side(self, side: int) -> bool:
        start, end = self._ends(side)
        return bool((start < end).any())

    def _ends(self, side: int) -> tuple[Tensor, Tensor]:
        """Return where the clamp is flat, below (0) or above (1) its kinks."""
        lower, upper, low, high = self.interval.points
        return (high, upper) if side else (lower, low)

    def _side(self, multiplier: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Return the best points where the clamp is flat, and the terms there; b is `turn` t below."""
        d, k = self._curvatures(multiplier)
        pull, turn = d * self.center + self.slopes, 0.0 if side else self.turn
        points = _stationary(pull - k * turn * self.anchor, d - k * turn * turn, *self._ends(side))
        return points, self._terms(points, self.interval.values[2 + side], d)

    def _curvatures(self, multiplier: Tensor) -> tuple[Tensor, Tensor]:
        """Return d and k, (R, 1)."""
        d = self.curvature(multiplier).unsqueeze(1)
        return d, torch.zeros_like(d) if self.arriving is None else self.arriving.unsqueeze(1)

    def _bending(self, points: Tensor) -> Tensor:
        """Return a σ(t) - (k / 2)(b(t) - b(c))²."""
        clamped = self._clamped(points)
        if self.arriving is None:
            return self.coefficients * clamped
        return self.coefficients * clamped - self.arriving.unsqueeze(1) / 2 * self._bent(points, clamped).square()

    def remainder(self, points: Tensor, multiplier: Tensor) -> Remainder:
        """Return the sums at points of the interval."""
        d, clamped = self.curvature(multiplier), self._clamped(points)
        value = self._terms(points, clamped, d.unsqueeze(1)).sum(dim=1)
        with torch.no_grad():
            squares = (points - self.center).square().sum(dim=1)
            if self.arriving is not None:
                squares = squares + self._bent(points, clamped).square().sum(dim=1)
        return Remainder(value, multiplier, d, squares)

    def _terms(self, points: Tensor, clamped: Tensor, d: Tensor) -> Tensor:
        deviation = points - self.center
        terms = self.coefficients * clamped - self.slopes * points + d / 2 * deviation * deviation
        if self.arriving is None:
            return terms
        return terms - self.arriving.unsqueeze(1) / 2 * self._bent(points, clamped).square()

    def _bent(self, points: Tensor, clamped: Tensor) -> Tensor:
        """Return b(t) - b(c), (R, n)."""
        return clamped + self.turn * points.clamp_max(0) - self.anchor

    def _clamped(self, points: Tensor) -> Tensor:
        _, _, low, high = self.interval.points
        return self.interval.values[2] + (_brought(points, low, high) - low)


def _stationary(linear: Tensor, curvature: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Return where (curvature / 2) t² - linear t is least between two ends, (R, n)."""
    down = curvature * (start + end) / 2 < linear  # of concave and linear ones, at their middle
    convex = curvature > 0
    vertex = linear / torch.where(convex, curvature, 1)
    return _brought(torch.where(convex, vertex, torch.where(down, end, start)), start, end)


def _brought(points: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(points, lower), upper)


def least_remainder(pieces: Pieces, radius: Tensor, box: Tensor, multiplier: Tensor | None = None) -> Remainder:
    """Return what is left over ball ∩ box, for a multiplier m that makes the bound over both large.

    Args:
        pieces: of R rows.
        radius: of the balls around the centers, (R,).
        box: what the box alone gives where nothing arrives, (R,).
        multiplier: m, (R,), > 0; None to look for it.
    """
    if multiplier is not None:
        return pieces.remainder(pieces.minima(multiplier)[0], multiplier)
    with torch.no_grad():
        found = _best(pieces, radius, box)
    rest = pieces.remainder(pieces.minima(found)[0], found)
    linear = rest.value - found / 2 * radius.square() > box  # NaN is not
    if pieces.arriving is not None:
        linear = linear | ~(pieces.arriving == 0)  # NaN arrives, too
    zero = torch.zeros_like(box)
    alone = (box, zero, zero, zero)
    return Remainder(*(torch.where(linear, each, other) for each, other in zip(rest, alone, strict=True)))


def _best(pieces: Pieces, radius: Tensor, box: Tensor) -> Tensor:
    """Return the best multiplier tried for each row, (R,), 0 among them where something arrives.

    The bound is concave in m with slope (Σ (t - c)² - r²) / 2. Multipliers tried are, in turn, where the tangents on
    both sides of the maximum meet, and m √Σ(t - c)² / r, which is the best one where no end of the box binds.
    """
    square = radius.square()
    steepest = torch.maximum(pieces.slopes.abs(), (pieces.coefficients - pieces.slopes).abs())
    multiplier = 2 * torch.linalg.vector_norm(steepest, dim=1) / radius  # Σ (t - c)² is below r² from here on
    multiplier = torch.where((multiplier > 0) & multiplier.isfinite(), multiplier, 1)

    def at(multiplier: Tensor) -> Tangent:
        points, terms = pieces.minima(multiplier)
        spread = (points - pieces.center).square().sum(dim=1)
        return Tangent(multiplier, terms.sum(dim=1) - multiplier / 2 * square, (spread - square) / 2)

    lower, upper, *_ = pieces.interval.points
    widest = torch.maximum(upper - pieces.center, pieces.center - lower).square().sum(dim=1)
    zero = torch.zeros_like(box)
    low, high = Tangent(zero, box, (widest - square) / 2), None
    best, highest = multiplier, torch.full_like(box, -torch.inf)
    if pieces.arriving is not None:
        arrives = pieces.arriving > 0
        low = at(zero).where(arrives, low)
        best, highest = torch.where(arrives, zero, best), torch.where(arrives, low.value, highest)
    for number in range(ROUNDS):
        here = at(multiplier)
        best = torch.where(here.value > highest, multiplier, best)
        highest = torch.maximum(here.value, highest)
        low = here.where(here.slope > 0, low)
        high = here if high is None else here.where(here.slope <= 0, high)
        proposals = [low.meets(high), (low.multiplier + high.multiplier) / 2]
        if number % 2 == 0:
            proposals.insert(0, multiplier * (2 * here.slope + square).clamp_min(0).sqrt() / radius)
        for proposed in reversed(proposals):
            inside = (proposed > low.multiplier) & (proposed < high.multiplier)
            multiplier = torch.where(inside, proposed, multiplier)
    return best


class Tangent(NamedTuple):
    """The bound at a multiplier and its slope there, (R,) each."""

    multiplier: Tensor
    value: Tensor
    slope: Tensor

    def where(self, chosen: Tensor, other: Tangent) -> Tangent:
        """Return this one for the rows `chosen`, elsewhere the other."""
        return Tangent(*(torch.where(chosen, mine, theirs) for mine, theirs in zip(self, other, strict=True)))

    def meets(self, other: Tangent) -> Tensor:
        """Return the multiplier at which two tangents cross; NaN for parallel or infinite ones."""
        at_zero = [each.value - each.slope * each.multiplier for each in (self, other)]
        return (at_zero[1] - at_zero[0]) / (self.slope - other.slope)
