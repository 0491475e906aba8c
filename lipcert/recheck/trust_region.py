"""How far a linear and a quadratic function can rise together over a ball.

For |A| <= s the matrix C = s² - AᵀA has no negative eigenvalue, so that δᵀCδ >= 2 y·Cδ - y·Cy at any y, and

    q·δ + d/2 |Aδ|²  =  q·δ + d/2 (s² |δ|² - δᵀCδ)  <=  r |q - d C y| + d/2 (s² r² + y·Cy)      on |δ| <= r.

It is least where y points as q - d C y does: there q·δ + d/2 |Aδ|² has a maximum on the sphere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from lipcert.recheck.program import AffineStep, LinearMap
from lipcert.recheck.reach import SLACK


@dataclass(frozen=True, eq=False)
class Quadratic:
    """|A δ|² for A = diag(rows) J, J from the image; `norm`: s, at least that of A; `unit`: rounding of J v and Jᵀ w.

    `rows`: 0 or 1, (1, ...).
    """

    linear_map: LinearMap
    rows: Tensor
    norm: float
    unit: float

    @cached_property
    def absolute(self) -> float:
        """An upper bound of the norm of |A|: by its greatest sums of rows and of columns."""
        steps = [
            replace(step, affine=replace(step.affine, linear=step.affine.absolute))
            if isinstance(step, AffineStep)
            else step
            for step in self.linear_map.steps
        ]
        moduli = replace(self.linear_map, steps=tuple(steps))
        ones = [torch.ones(1, *shape, dtype=torch.float64) for shape in (moduli.start_shape, moduli.end_shape)]
        with torch.no_grad():
            return (float(moduli.apply(ones[0]).max()) * float(moduli.adjoint(ones[1]).max())) ** 0.5 * (1 + SLACK)

    def rise(self, rows: Tensor, curvature: Tensor, radius: float, rounds: int) -> Tensor:
        """Return upper bounds of q·δ + d/2 |Aδ|² on |δ| <= r, (R,), differentiable by q and d.

        Args:
            rows: q, (R, *shape of the image).
            curvature: d, (R,).
            radius: r.
            rounds: of the search for y, each one product with A and Aᵀ.
        """
        flat, d = rows.flatten(1), curvature[:, None]
        with torch.no_grad():
            y = _to_length(flat, radius)
            for _ in range(rounds):
                y = _to_length(flat + d * self._products(y)[1], radius)
            seen, back = self._products(y)
        missed = flat - d * (self.norm**2 * y - back)
        bent = self.norm**2 * (radius**2 + y.square().sum(dim=1)) - seen.square().sum(dim=1)
        rise = radius * missed.norm(dim=1) + curvature / 2 * bent
        moduli = flat.norm(dim=1) + 4 * curvature * radius * (self.absolute + self.norm) ** 2
        return rise + (16 * self.unit * radius * moduli).detach()

    def _products(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Return A v and AᵀA v, flat."""
        seen = self.linear_map.apply(flat.view(-1, *self.linear_map.start_shape)) * self.rows
        return seen.flatten(1), self.linear_map.adjoint(seen).flatten(1)


def _to_length(vectors: Tensor, length: float) -> Tensor:
    """Return vectors, (R, N), in their directions with the length; 0 stays 0."""
    norms = vectors.norm(dim=1, keepdim=True)
    return vectors * (length / torch.where(norms > 0, norms, 1.0))
