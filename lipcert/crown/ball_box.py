"""The least value of what a line leaves of clamps, over a ball intersected with a box.

For slopes g of a row and every multiplier m > 0, on ‖z - c‖ <= r and l <= z <= u

    a·σ(z) - g·z  >=  Σ min over l_i <= t <= u_i of [a_i σ_i(t) - g_i t + (m / 2)(t - c_i)²]  -  m r² / 2,

because (m / 2)(‖z - c‖² - r²) <= 0 there. On each linear piece of σ_i, p t + (m / 2)(t - c)² is least at c - p / m,
brought into the piece, and the least piece wins. Small m give the box alone (CROWN), an infinite box the ball alone
(SDP-CROWN, Chiu et al. 2025).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lipcert.crown.lines import Interval

ROUNDS = 12
"""Multipliers tried for each row; the bound holds at every one."""


class Remainder(NamedTuple):
    """Lower bounds (R,) over ball and box, the multipliers (R,) they hold at, 0 where none is better than the box, and
    Σ (t - c)² at the points t where the minima are attained."""

    value: Tensor
    multiplier: Tensor
    spread: Tensor


class Pieces(NamedTuple):
    """What bends, flattened to (R, n): coefficients a, slopes g, centers c, and the clamp over its interval."""

    coefficients: Tensor
    slopes: Tensor
    center: Tensor
    interval: Interval

    def minimisers(self, multiplier: Tensor) -> Tensor:
        """Return where a_i σ_i(t) - g_i t + (m / 2)(t - c_i)² is least in the interval, (R, n), m (R,) > 0."""
        lower, upper, low, high = self.interval.points
        m = multiplier.unsqueeze(1)
        flat = self.center + self.slopes / m
        inclined = self.center + (self.slopes - self.coefficients) / m
        best = _brought(inclined, low, high)
        least = self._values(best, m)
        for start, end, bends in ((lower, low, self.interval.bends_up), (high, upper, self.interval.bends_down)):
            if not bool(bends.any()):
                continue
            other = _brought(flat, start, end)
            value = self._values(other, m)
            best, least = torch.where(value < least, other, best), torch.minimum(value, least)
        return best

    def _values(self, points: Tensor, m: Tensor) -> Tensor:
        deviation = points - self.center
        return self.linear(points) + m / 2 * deviation * deviation

    def linear(self, points: Tensor) -> Tensor:
        """Return a_i σ_i(t) - g_i t, (R, n)."""
        _, _, low, high = self.interval.points
        clamped = self.interval.values[2] + (_brought(points, low, high) - low)
        return self.coefficients * clamped - self.slopes * points


def _brought(points: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(points, lower), upper)


def least_remainder(pieces: Pieces, radius: Tensor, box: Tensor) -> Remainder:
    """Return lower bounds of a·σ(z) - g·z over ball ∩ box, never below those over the box.

    The bound is concave in m with slope (Σ (t - c)² - r²) / 2. Multipliers tried are, in turn, where the tangents on
    both sides of the maximum meet, and m √Σ(t - c)² / r, which is the best one where no end of the box binds.

    Args:
        pieces: of R rows.
        radius: of the balls around the centers, (R,).
        box: what the box alone gives, (R,).
    """
    with torch.no_grad():
        best = _best(pieces, radius, box)
        points = pieces.minimisers(best)
        spread = (points - pieces.center).square().sum(dim=1)
    value = pieces.linear(points).sum(dim=1) + best / 2 * (spread - radius.square())
    better = value > box  # NaN is not
    return Remainder(torch.where(better, value, box), best * better, torch.where(better, spread, 0))


def _best(pieces: Pieces, radius: Tensor, box: Tensor) -> Tensor:
    """Return the best multiplier tried for each row, (R,)."""
    square = radius.square()
    steepest = torch.maximum(pieces.slopes.abs(), (pieces.coefficients - pieces.slopes).abs())
    multiplier = 2 * torch.linalg.vector_norm(steepest, dim=1) / radius  # Σ (t - c)² is below r² from here on
    multiplier = torch.where((multiplier > 0) & multiplier.isfinite(), multiplier, 1)
    lower, upper, *_ = pieces.interval.points
    widest = torch.maximum(upper - pieces.center, pieces.center - lower).square().sum(dim=1)
    low, high = Tangent(torch.zeros_like(box), box, (widest - square) / 2), None
    best, highest = multiplier, torch.full_like(box, -torch.inf)
    for number in range(ROUNDS):
        points = pieces.minimisers(multiplier)
        spread = (points - pieces.center).square().sum(dim=1)
        value = pieces.linear(points).sum(dim=1) + multiplier / 2 * (spread - square)
        best = torch.where(value > highest, multiplier, best)
        highest = torch.maximum(value, highest)
        here = Tangent(multiplier, value, (spread - square) / 2)
        low = here.where(here.slope > 0, low)
        high = here if high is None else here.where(here.slope <= 0, high)
        proposals = [low.meets(high), (low.multiplier + high.multiplier) / 2]
        if number % 2 == 0:
            proposals.insert(0, multiplier * spread.sqrt() / radius)
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
