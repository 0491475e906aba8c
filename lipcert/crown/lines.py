"""Two lines around a clamp over an interval: below and above it everywhere inside, whatever their slopes.

Source: Zhang et al. 2018 (CROWN) and Xu et al. 2021 (free slopes), carried over to two kinks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lipcert.graph import Lines


class Slopes(NamedTuple):
    """Of the lower and of the upper line where a clamp is not constant; all give sound lines."""

    lower: Tensor
    upper: Tensor


@dataclass(frozen=True)
class Interval:
    """A clamp over an interval: its ends and kinks (brought inside), and the clamp's values there."""

    points: tuple[Tensor, Tensor, Tensor, Tensor]
    values: tuple[Tensor, Tensor, Tensor, Tensor]
    bends_up: Tensor
    bends_down: Tensor

    @classmethod
    def of(cls, lower: Tensor, upper: Tensor, low: Tensor | float | None, high: Tensor | float | None) -> Interval:
        """Return what min(max(z, low), high) does for lower <= z <= upper; NaN stays NaN; either may be missing."""
        high = _limit(torch.inf if high is None else high, lower)
        low = torch.minimum(_limit(-torch.inf if low is None else low, lower), high)
        points = (lower, upper, _inside(low, lower, upper), _inside(high, lower, upper))
        values = [torch.minimum(torch.maximum(each, low), high) for each in points]
        up, down = (lower < low) & (low < upper), (lower < high) & (high < upper)
        return cls(points, tuple(values), up, down)  # type: ignore[arg-type]

    @property
    def bends(self) -> Tensor:
        """Where the clamp is not linear."""
        return self.bends_up | self.bends_down

    @property
    def varies(self) -> Tensor:
        """Where the clamp is not constant."""
        return self.values[0] != self.values[1]

    @property
    def size(self) -> Tensor:
        """Largest absolute value before and after the clamp."""
        ends = (*self.points[:2], *self.values[:2])
        return torch.stack([end.abs() for end in ends]).amax(dim=0)

    def chord(self) -> Tensor:
        """Return the slope between the ends: u / (u - l) for a ReLU that bends; where they are one, the slope there."""
        (lower, upper, *_), (value, *_) = self.points, self.values
        return torch.where(lower == upper, (value == lower).to(lower), _slope(self.points, self.values, 0, 1))

    def closest(self) -> Slopes:
        """Return the slopes whose lines leave the smallest areas (CROWN's adaptive slopes)."""
        lower, upper, low, high = self.points
        chord = self.chord()
        steep, steep_above = upper - low > low - lower, high - lower >= upper - high
        below = torch.where(self.bends_up, steep * _slope(self.points, self.values, 2, 1), chord)
        above = torch.where(self.bends_down, steep_above * _slope(self.points, self.values, 0, 3), chord)
        return Slopes(below, above)

    def parallel(self) -> Slopes:
        """Return the slope u / (u - l) of a ReLU for both lines (Wong and Kolter)."""
        chord = self.chord()
        return Slopes(chord, chord)

    def lines(self, slopes: Slopes) -> Lines:
        """Return lines whose intercepts leave the clamp on the right side at ends and kinks, hence everywhere."""
        chord = self.chord()
        below, above = (torch.where(self.varies, slope, chord) for slope in slopes)
        return Lines(below, self._intercept(below, 2, 1), above, self._intercept(above, 3, -1))

    def least(self, coefficients: Tensor, slopes: Tensor) -> Tensor:
        """Return the least value of coefficient times clamp minus slope times input, entry by entry."""
        pairs = zip(self.points, self.values, strict=True)
        gaps = [coefficients * value - slopes * point for point, value in pairs]
        return torch.stack(gaps).amin(dim=0)

    def _intercept(self, slope: Tensor, first: int, sign: int) -> Tensor:
        """Return the least (`sign` 1) or largest (-1) value minus slope times point; ties go to point `first`."""
        gaps = [sign * (value - slope * point) for point, value in zip(self.points, self.values, strict=True)]
        best = gaps[first]
        for gap in gaps:
            best = torch.where(gap < best, gap, best)
        return sign * best


def _limit(value: Tensor | float, like: Tensor) -> Tensor:
    return value.to(like) if isinstance(value, Tensor) else like.new_full((), value)


def _inside(kink: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(kink, lower), upper)


def _slope(points: tuple[Tensor, ...], values: tuple[Tensor, ...], start: int, end: int) -> Tensor:
    """Return the slope between two points, 0 where they are one."""
    width = points[end] - points[start]
    return (values[end] - values[start]) / torch.where(width > 0, width, 1)
