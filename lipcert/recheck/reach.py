"""What is known of the values of a program over an l2 ball around one image, and of the sources of their change."""

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
    `change`, `remainder`: boxes of its whole change and of its remainder.
    """

    tight: float
    decomposed: float
    varying: Tensor
    unstable: Tensor
    change: tuple[Tensor, Tensor]
    remainder: tuple[Tensor, Tensor]


def widened(box: tuple[Tensor, Tensor], by: Tensor) -> tuple[Tensor, Tensor]:
    """Widen a box around 0 so that it holds 0 and covers errors of float64."""
    lower, upper = box
    return (lower - by).clamp(max=0), (upper + by).clamp(min=0)
