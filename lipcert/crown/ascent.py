"""Adam on many rows at once, each at a rate of its own: what a row gains does not depend on the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lipcert.norms.krylov import per_image

MOMENTUM, SQUARES = 0.9, 0.999
"""Of Adam's means of gradients and of their squares."""

FASTER, SLOWER = 1.1, 0.5
"""Factors on the rate of a smooth row that rises, and of one that goes back."""

STUCK, LAST = 0.01, 0.05
"""Shares of the first rate: where a row that goes back again and again is taken to be at a kink; last ones there."""

TINY = 1e-8
"""Added to the roots of mean squares."""


class Ascent:
    """Points that rows have tried, and where each was best.

    Args:
        points: what rows are functions of, (R, ...) each.
        rate: of all rows at first.
        steps: at most.
        smooth: rows that fall go back to where they were best, at a lower rate, which saves steps; at a kink they would
            never get away from there. Where this is False, and once a row is stuck, it goes on and its rate falls.
    """

    def __init__(self, points: Sequence[Tensor], rate: float, steps: int, smooth: bool) -> None:
        self.points = [each.detach().requires_grad_(True) for each in points]
        self.best = [each.detach().clone() for each in points]
        self.highest = points[0].new_full((len(points[0]),), -torch.inf)
        self._rate, self._age = torch.full_like(self.highest, rate), torch.zeros_like(self.highest)
        self._slopes, self._mean, self._square = ([torch.zeros_like(each) for each in points] for _ in range(3))
        self.smooth = torch.full_like(self.highest, smooth, dtype=torch.bool)
        self._first, self._step, self._steps = rate, 0, steps

    @torch.no_grad()
    def step(self, values: Tensor, gradients: Sequence[Tensor]) -> None:
        """Go on from the values of rows, (R,), and their gradients at the points; NaN falls."""
        rises = values > self.highest
        self.highest = torch.where(rises, values, self.highest)
        self.smooth = self.smooth & (self._rate >= STUCK * self._first)
        stays = rises | ~self.smooth
        falling = self._first * (1 - (1 - LAST) * self._step / self._steps)
        self._rate = torch.where(self.smooth, self._rate * torch.where(rises, FASTER, SLOWER), falling)
        self._age, self._step = torch.where(stays, self._age, 0) + 1, self._step + 1
        for index, point in enumerate(self.points):
            here, staying = (per_image(each, point.dim()) for each in (rises, stays))
            best = self.best[index] = torch.where(here, point, self.best[index])
            slope = torch.where(staying, gradients[index].nan_to_num(0, 0, 0), self._slopes[index])
            mean = torch.where(staying, self._mean[index], 0).lerp_(slope, 1 - MOMENTUM)
            square = self._square[index].lerp_(slope.square(), 1 - SQUARES)
            self._slopes[index], self._mean[index], self._square[index] = slope, mean, square
            rate = per_image(self._rate / (1 - MOMENTUM**self._age), point.dim())
            size = (square / (1 - SQUARES**self._step)).sqrt_().add_(TINY)
            self.points[index] = (torch.where(staying, point, best) + rate * mean / size).requires_grad_(True)

    def keep(self, index: Tensor) -> None:
        """Go on with rows `index`, (N,), alone."""
        self.points = [each.detach()[index].requires_grad_(True) for each in self.points]
        rows = (self.highest, self.smooth, self._rate, self._age)
        self.highest, self.smooth, self._rate, self._age = (each[index] for each in rows)
        self.best, self._slopes, self._mean, self._square = (
            [each[index] for each in tensors] for tensors in (self.best, self._slopes, self._mean, self._square)
        )
