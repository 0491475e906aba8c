"""What is known of the values of a program over an l2 ball around one image, and how far linear functions can go."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lipcert.recheck.affine import Affine
from lipcert.recheck.rounding import Error

SLACK = 1e-9
"""Relative slack on radii and on maxima that covers arithmetic in float64."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Norms of the rows of J0 diag(varying) from one source, upper bounds unless `exact`.

    `disjoint`: no input feeds two of the rows.
    """

    norms: Tensor
    disjoint: bool
    exact: bool

    def after(self, affine: Affine) -> Rows:
        """Return those of W J: exact where no input feeds two rows of J, by the triangle inequality otherwise."""
        if self.disjoint:
            return Rows(affine.squared(self.norms.square()).sqrt(), affine.disjoint, True)
        return Rows(affine.absolute(self.norms), False, self.exact and affine.monomial)


@dataclass(frozen=True, eq=False)
class Reach:
    """What is known of one value over the ball, all (1, ...).

    `lower`, `upper`: a box that holds the value in real arithmetic; `center`: its value at the image.
    `executed`, `own`: errors of the network's execution in its own dtype, and of ours in float64.
    `rows`: for each direct predecessor among the sources, row norms of the map from there.
    """

    center: Tensor
    lower: Tensor
    upper: Tensor
    executed: Error
    own: Error
    rows: dict[int, Rows]

    @property
    def magnitude(self) -> Tensor:
        """The largest modulus, (1, ...)."""
        return torch.maximum(self.lower.abs(), self.upper.abs())

    def within(self, change: Tensor) -> Reach:
        """Return the same with a box cut to what moves by at most `change`, (1, ...), and our own error."""
        half = change + self.own.entries
        lower, upper = torch.maximum(self.lower, self.center - half), torch.minimum(self.upper, self.center + half)
        return replace(self, lower=lower, upper=upper)


@dataclass(frozen=True, eq=False)
class Source:
    """A source of change; masks and boxes (1, ...).

    `tight`, `decomposed`: its changes are at most epsilon times these in l2. `varying`, `unstable`: where they live.
    `change`, `remainder`: boxes of its whole change and of its remainder. `before`: as `tight`, of those inputs of the
    activation that matter; None where that is the same.
    """

    tight: float
    decomposed: float
    varying: Tensor
    unstable: Tensor
    change: tuple[Tensor, Tensor]
    remainder: tuple[Tensor, Tensor]
    before: float | None = None

    @property
    def inputs(self) -> float:
        """How far inputs of the activation that matter change in l2, over epsilon."""
        return self.tight if self.before is None else self.before


def widened(box: tuple[Tensor, Tensor], by: Tensor) -> tuple[Tensor, Tensor]:
    """Widen a box around 0 so that it holds 0 and covers errors of float64."""
    lower, upper = box
    return (lower - by).clamp(max=0), (upper + by).clamp(min=0)


def maximum_over(gradients: Tensor, radius: float, lower: Tensor, upper: Tensor, iterations: int = 60) -> Tensor:
    """Return upper bounds of max { d·δ : |δ|₂ <= radius, lower <= δ <= upper } for each row d, (J,).

    For every multiplier μ >= 0, Lagrange's dual  Σ max_{lower <= δ <= upper} (d δ - μ δ²/2) + μ radius²/2  is an upper
    bound; μ is sought by bisection of |clip(d / μ)| = radius on a logarithmic scale, and the best value is returned.

    Args:
        gradients: (J, N).
        radius: >= 0.
        lower: (N,), <= 0.
        upper: (N,), >= 0.
        iterations: of the bisection.
    """
    unconstrained = torch.maximum(gradients * lower, gradients * upper).sum(dim=1)
    norms = gradients.norm(dim=1)
    best = torch.minimum(unconstrained, norms * radius)
    if radius <= 0:
        return torch.zeros_like(best)
    # The maximiser over the ball alone has μ = |d| / radius; the box can only lower it.
    high = (norms / radius).clamp(min=1e-200).log()  # a gradient of 0 has any
    low = high - 40
    for _ in range(iterations):
        middle = (low + high) / 2
        multiplier = middle.exp()[:, None]
        point = (gradients / multiplier).clamp(lower, upper)
        length = point.square().sum(dim=1)
        dual = (gradients * point - multiplier / 2 * point.square()).sum(dim=1) + multiplier[:, 0] / 2 * radius**2
        best = torch.minimum(best, dual)
        too_long = length > radius**2
        low, high = torch.where(too_long, middle, low), torch.where(too_long, high, middle)
    return best.clamp(min=0)
