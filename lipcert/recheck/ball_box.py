"""What a linear and a quadratic function leave of clamps, at least, over a box.

For a row a with curvature k behind clamps σ, and any slopes g and curvature m before them, where l <= t <= u

    a·σ(t) - k/2 |b(t) - b(c)|²  >=  g·t - m/2 |t - c|²
                                     +  Σ min of a_i σ_i(t) - g_i t + m/2 (t - c_i)² - k/2 (b_i(t) - b_i(c_i))²,

b = σ, or with a slope below 0 where σ is a part of something else. Each minimum is exact: a quadratic function on a
linear piece of σ_i. On |t - c| <= r the rest, m/2 |t - c|², is at most m r²/2; or it is taken on to what t - c is a
linear map of.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

ROUNDS = 14
"""Halvings of the interval in which the logarithm of a multiplier is sought."""

DEPTH = 12.0
"""Length of that interval; where the best multiplier lies below it the box alone is as good."""

ROOM = 1e-3
"""Curvatures before what is more than a clamp exceed those behind by this share: of what else there is no box."""

LEAST_RADIUS = 1e-100
"""Balls with radii below it, or above its inverse, are left to the box: nothing overflows in between."""


@dataclass(frozen=True, eq=False)
class Relaxed:
    """g·t + constant - m/2 |t - c|² <= a·σ(t) - k/2 |b(t) - b(c)|² for each of R rows a.

    `behind`: a, `rows`: g, (R, N); `constant`, `curvature`: (R,), the latter m; `room`: what of it was a choice, (R,).
    `size`: what rounding errors of the constants are relative to, (R,).
    """

    behind: Tensor
    rows: Tensor
    constant: Tensor
    curvature: Tensor
    room: Tensor
    size: Tensor


@dataclass(frozen=True, eq=False)
class Choice:
    """Slopes of entries that are near, for coefficients above 0 and below, (R, 2, n), and logarithms of room, (R,)."""

    slopes: Tensor
    logarithm: Tensor


@dataclass(frozen=True, eq=False)
class Clamp:
    """σ(t) = min(max(t, low), high) of the entries t of a vector in the box [lower, upper], all (N,).

    The n entries `near`, (N,) bool, are within `radius` of `center` in l2, too: there any slopes are a choice.
    `turn`: slope of b below 0, (N,), where σ has one kink, at 0; None for b = σ. `floor`: curvatures before exceed
    those behind times it.
    """

    lower: Tensor
    upper: Tensor
    low: Tensor
    high: Tensor
    center: Tensor
    near: Tensor
    radius: float
    turn: Tensor | None = None
    floor: float = 0.0

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
    def _pieces(self) -> list[tuple[int, Tensor | int, Tensor, Tensor]]:
        """Rises of σ and of b, and both ends, (n,), of pieces that are not empty for all entries."""
        rises = ((0, 0 if self.turn is None else self.turn[self.index]), (1, 1), (0, 0))
        ends = zip(rises, self._points, self._points[1:], strict=False)
        pieces = [(*rise, start, end) for rise, start, end in ends]
        return [piece for piece in pieces if bool((piece[2] < piece[3]).any())] or pieces[1:2]

    def _bent(self, values: Tensor) -> Tensor:
        """Return b(t) - b(c), (..., n)."""
        return self._turned(values) - self._turned(self._center)

    def _turned(self, values: Tensor) -> Tensor:
        """Return b of the entries `near`, (..., n)."""
        found = self._near(values)
        return found if self.turn is None else found + self.turn[self.index] * values.clamp(max=0)

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

    def relax(self, rows: Tensor, arriving: Tensor, choice: Choice | None = None) -> Relaxed:
        """Return linear and quadratic lower bounds for rows a, (R, N), differentiable by rows, k and a choice.

        Args:
            rows: a.
            arriving: k >= 0, (R,).
            choice: slopes and curvature; those of the hull and one for which m r²/2 costs little where None.
        """
        linear = ~self.near & (self.lower >= self.low) & (self.upper <= self.high)
        ends = [torch.minimum(torch.maximum(end, self.low), self.high) for end in (self.lower, self.upper)]
        least, most = (torch.where(linear | self.near, 0.0, end) for end in ends)
        near, slopes = rows[:, self.index], self.hull if choice is None else choice.slopes
        chosen = near * torch.where(near >= 0, slopes[..., 0, :], slopes[..., 1, :])
        function = _Function(self, near, chosen, arriving)
        room = function.sought() if choice is None else choice.logarithm.exp()
        curvature = arriving * self.floor + room
        with torch.no_grad():
            points = function.least(curvature)
        constant = function.values(curvature, points).sum(dim=1)
        constant = constant + rows.clamp(min=0) @ least + rows.clamp(max=0) @ most
        size = self._size(rows.detach(), chosen.detach(), (curvature + arriving).detach())
        return Relaxed(rows, (rows * linear).index_copy(1, self.index, chosen), constant, curvature, room, size)

    def price(self, curvature: Tensor) -> Tensor:
        """Return what m/2 |t - c|² is at most, (R,)."""
        return torch.where(curvature > 0, curvature / 2 * (self.radius * self.radius), 0.0)

    def _size(self, rows: Tensor, slopes: Tensor, curvature: Tensor) -> Tensor:
        """Return the sum of moduli in a bound; a misplaced minimum costs less than rounding of m/2 (2 max |t|)²."""
        kink = torch.minimum(torch.maximum(self.center, self.low), self.high)
        largest = torch.stack((self.lower, self.upper, self.center, kink)).abs().amax(dim=0)
        near = largest[self.index]
        linear = rows.abs() @ largest + slopes.abs() @ near
        return linear + curvature * (4 * near.square().sum() + min(self.radius, 1 / LEAST_RADIUS) ** 2)


@dataclass(frozen=True, eq=False)
class _Function:
    """a σ(t) - g t + m/2 (t - c)² - k/2 (b(t) - b(c))² of entries that are near, for rows a, g (R, n) and k (R,)."""

    clamp: Clamp
    rows: Tensor
    slopes: Tensor
    arriving: Tensor

    def values(self, curvature: Tensor, points: Tensor) -> Tensor:
        """Return its values at points, (n,) or (R, n), for m, (R,)."""
        deviation, bent = points - self.clamp._center, self.clamp._bent(points)
        linear = self.rows * self.clamp._near(points) - self.slopes * points
        return linear + curvature[:, None] / 2 * deviation.square() - self.arriving[:, None] / 2 * bent.square()

    def least(self, curvature: Tensor) -> Tensor:
        """Return where it is least in the box, (R, n), for m, (R,)."""
        k, center = self.arriving[:, None], self.clamp._center
        level, anchor = curvature[:, None] * center + self.slopes, self.clamp._turned(center)
        best = value = None
        for rises, turns, start, end in self.clamp._pieces:
            pull, bend = level - rises * self.rows - turns * k * anchor, curvature[:, None] - turns * turns * k
            uphill = torch.copysign(torch.full_like(pull, torch.inf), pull - bend * (start + end) / 2)
            place = torch.where(bend > 0, pull / bend, uphill)  # of a concave function the better end
            place = torch.minimum(torch.maximum(place, start), end)
            here = self.values(curvature, place)
            best = place if best is None or value is None else torch.where(here < value, place, best)
            value = here if value is None else torch.minimum(here, value)
        assert best is not None
        return best

    @torch.no_grad()
    def sought(self) -> Tensor:
        """Return room for which least values less m r²/2 are large, (R,)."""
        clamp, zero = self.clamp, torch.zeros_like(self.arriving)
        floor = self.arriving * clamp.floor
        if not LEAST_RADIUS < clamp.radius < 1 / LEAST_RADIUS:
            return zero
        steepest = torch.maximum(self.slopes.abs(), (self.rows - self.slopes).abs()).norm(dim=1)
        high = (steepest / clamp.radius + self.arriving).clamp(min=1e-200).log()
        low = high - DEPTH
        for _ in range(ROUNDS):
            middle = (low + high) / 2
            spread = (self.least(floor + middle.exp()) - clamp._center).square().sum(dim=1)
            far = spread > clamp.radius**2
            low, high = torch.where(far, middle, low), torch.where(far, high, middle)
        found = high.exp()
        values = [
            self.values(floor + m, self.least(floor + m)).sum(dim=1) - clamp.price(floor + m) for m in (found, zero)
        ]
        return torch.where(values[0] > values[1], found, zero)
