"""What a linear function leaves of clamps, at least, over a ball cut by a box.

For a row a, slopes g and any multiplier m >= 0, on |t - c|₂ <= r and l <= t <= u

    Σ a_i σ_i(t_i) - g_i t_i  >=  Σ min over l_i <= t <= u_i of a_i σ_i(t) - g_i t + m/2 (t - c_i)²  -  m r²/2,

and each minimum is found exactly: on a linear piece of σ_i, p t + m/2 (t - c)² is least at c - p/m brought into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

ROUNDS = 14
"""Halvings of the interval in which the logarithm of a multiplier is sought."""

DEPTH = 12.0
"""Length of that interval; where the best multiplier lies below it the box alone is as good."""

LEAST_RADIUS = 1e-100
"""Balls with radii below it, or above its inverse, are left to the box: nothing overflows in between."""


@dataclass(frozen=True, eq=False)
class Relaxed:
    """g·t + constant <= a·σ(t) for each of R rows a: `rows` g, (R, N), and `constant`, (R,).

    `size`: what rounding errors of the constants are relative to, (R,).
    """

    rows: Tensor
    constant: Tensor
    size: Tensor


@dataclass(frozen=True, eq=False)
class Clamp:
    """σ(t) = min(max(t, low), high) of the entries t of a vector in the box [lower, upper], all (N,).

    The n entries `near`, (N,) bool, are within `radius` of `center` in l2, too: there any slopes are a choice.
    """

    lower: Tensor
    upper: Tensor
    low: Tensor
    high: Tensor
    center: Tensor
    near: Tensor
    radius: float

    @cached_property
    def index(self) -> Tensor:
        """Of the entries `near`, (n,)."""
        return self.near.nonzero()[:, 0]

    @property
    def bends(self) -> Tensor:
        """Indices of entries in whose interval there is a kink, (k,)."""
        inside = [(self.lower < kink) & (kink < self.upper) for kink in (self.low, self.high)]
        return (inside[0] | inside[1]).nonzero()[:, 0]

    @cached_property
    def _center(self) -> Tensor:
        return self.center[self.index]

    @cached_property
    def _kinks(self) -> tuple[Tensor, Tensor]:
        return self.low[self.index], self.high[self.index]

    @cached_property
    def _points(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Ends of the three pieces in order, (n,) each; a piece may be empty."""
        lower, upper = self.lower[self.index], self.upper[self.index]
        first, second = (torch.minimum(torch.maximum(kink, lower), upper) for kink in self._kinks)
        return lower, first, second, upper

    @cached_property
    def _pieces(self) -> list[tuple[bool, Tensor, Tensor]]:
        """Whether σ is inclined, and both ends, (n,), of pieces that are not empty for all entries."""
        pieces = list(zip((False, True, False), self._points, self._points[1:], strict=False))
        return [piece for piece in pieces if bool((piece[1] < piece[2]).any())] or pieces[1:2]

    def _near(self, values: Tensor) -> Tensor:
        """Return σ of the entries `near`, (..., n)."""
        low, high = self._kinks
        return torch.minimum(torch.maximum(values, low), high)

    @cached_property
    def hull(self) -> Tensor:
        """Slopes for coefficients above 0 and below, (2, n): the longer edge of the hull of σ from below, or above."""
        lower, first, second, upper = self._points
        rise = self._near(upper) - self._near(lower)
        below = torch.where(upper - first > first - lower, rise / (upper - first), 0.0)
        above = torch.where(second - lower > upper - second, rise / (second - lower), 0.0)
        return torch.stack((below, above))

    def relax(self, rows: Tensor, slopes: Tensor) -> Relaxed:
        """Return linear lower bounds of a·σ(t) for rows a, (R, N), differentiable by rows and slopes.

        Args:
            rows: a.
            slopes: of entries `near`, for coefficients above 0 and below, (2, n) or (R, 2, n).
        """
        linear = ~self.near & (self.lower >= self.low) & (self.upper <= self.high)
        ends = [torch.minimum(torch.maximum(end, self.low), self.high) for end in (self.lower, self.upper)]
        least, most = (torch.where(linear | self.near, 0.0, end) for end in ends)
        near = rows[:, self.index]
        chosen = near * torch.where(near >= 0, slopes[..., 0, :], slopes[..., 1, :])
        with torch.no_grad():
            multiplier, points = self._attained(near, chosen)
        constant = self._values(near, chosen, multiplier, points).sum(dim=1) - multiplier / 2 * self._square
        constant = constant + rows.clamp(min=0) @ least + rows.clamp(max=0) @ most
        size = self._size(rows.detach(), chosen.detach(), multiplier)
        return Relaxed((rows * linear).index_copy(1, self.index, chosen), constant, size)

    @property
    def _square(self) -> float:
        return min(self.radius, 1 / LEAST_RADIUS) ** 2

    def _attained(self, rows: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
        """Return good multipliers (R,), 0 where the box alone gives no less, and where minima are attained, (R, n)."""
        none = torch.zeros(len(rows), dtype=rows.dtype)
        flat = self._least(rows, slopes, none, self._points)
        if not LEAST_RADIUS < self.radius < 1 / LEAST_RADIUS:
            return none, flat
        steepest = torch.maximum(slopes.abs(), (rows - slopes).abs()).norm(dim=1)
        high = (steepest / self.radius).clamp(min=1e-200).log()
        low = high - DEPTH
        for _ in range(ROUNDS):
            middle = (low + high) / 2
            spread = (self._curved(rows, slopes, middle.exp()) - self._center).square().sum(dim=1)
            far = spread > self._square
            low, high = torch.where(far, middle, low), torch.where(far, high, middle)
        multiplier = high.exp()
        points = self._curved(rows, slopes, multiplier)
        value = self._values(rows, slopes, multiplier, points).sum(dim=1) - multiplier / 2 * self._square
        curved = value > self._values(rows, slopes, none, flat).sum(dim=1)
        return torch.where(curved, multiplier, none), torch.where(curved[:, None], points, flat)

    def _curved(self, rows: Tensor, slopes: Tensor, multiplier: Tensor) -> Tensor:
        """Return where a σ(t) - g t + m/2 (t - c)² is least in the box, (R, n), for m > 0, (R,)."""
        level = self._center + slopes / multiplier[:, None]
        inclined = level - rows / multiplier[:, None]
        places = [
            torch.minimum(torch.maximum(inclined if rises else level, start), end) for rises, start, end in self._pieces
        ]
        return self._least(rows, slopes, multiplier, places)

    def _least(self, rows: Tensor, slopes: Tensor, multiplier: Tensor, places: Sequence[Tensor]) -> Tensor:
        """Return the one of some places, each (n,) or (R, n), where the function is least, (R, n)."""
        best = places[0].expand_as(rows)
        least = self._values(rows, slopes, multiplier, best)
        for place in places[1:]:
            value = self._values(rows, slopes, multiplier, place)
            best, least = torch.where(value < least, place, best), torch.minimum(value, least)
        return best

    def _values(self, rows: Tensor, slopes: Tensor, multiplier: Tensor, points: Tensor) -> Tensor:
        deviation = points - self._center
        return rows * self._near(points) - slopes * points + multiplier[:, None] / 2 * deviation.square()

    def _size(self, rows: Tensor, slopes: Tensor, multiplier: Tensor) -> Tensor:
        """Return the sum of moduli in a bound; a misplaced minimum costs less than rounding of m/2 (2 max |t|)²."""
        kink = torch.minimum(torch.maximum(self.center, self.low), self.high)
        largest = torch.stack((self.lower, self.upper, self.center, kink)).abs().amax(dim=0)
        near = largest[self.index]
        linear = rows.abs() @ largest + slopes.abs() @ near
        return linear + multiplier * (2 * near.square().sum() + self._square)
