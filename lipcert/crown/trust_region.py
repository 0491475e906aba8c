"""The greatest rise of a linear and a quadratic function together over a ball.

For A with |A| <= s the matrix C = s² - AᵀA has no negative eigenvalue, so δᵀCδ >= 2 y·Cδ - y·Cy at every y, and

    max { q·δ + (d / 2) |A δ|² : |δ| <= r }  <=  r |q - d C y| + (d / 2) (s² r² + y·Cy).

The best y has length r and the direction of q + d AᵀA y; products with AᵀA lead there.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lipcert.bounds.rounding import l2_norm
from lipcert.graph.operators import LinearMap, largest_absolute

SAFETY = 8
"""Factor on bounds of rounding errors."""


class Quadratic(NamedTuple):
    """What of an image's deviation δ an activation sees: A δ, where any output that varies depends on it.

    `map`: A; `mask`: 1 for what it sees, (B, *shape), None for all; `norm`: s, (B,); `absolute`: of |A|, (1,).
    """

    map: LinearMap
    mask: Tensor | None
    norm: Tensor
    absolute: Tensor

    @classmethod
    def of(cls, linear_map: LinearMap, mask: Tensor | None, norm: Tensor) -> Quadratic:
        """Return it with a bound on the norm of |A|."""
        return cls(linear_map, mask, norm, largest_absolute(linear_map))

    def of_images(self, index: Tensor) -> Quadratic:
        """Return it for images `index`, (N,), which may be there several times."""
        mask = None if self.mask is None else self.mask[index]
        return self._replace(mask=mask, norm=self.norm[index])

    def apply(self, deviations: Tensor, image: Tensor) -> Tensor:
        """Return A δ of rows about images `image`, (R,)."""
        seen = self.map.apply(deviations)
        return seen if self.mask is None else seen * self.mask[image]


def greatest_rise(
    quadratic: Quadratic, directions: Tensor, curvature: Tensor, radius: Tensor, image: Tensor, steps: int
) -> Tensor:
    """Return upper bounds of max { q·δ + (d / 2) |A δ|² : |δ| <= r }, (R,), rounding included.

    Args:
        quadratic: A and s.
        directions: q, (R, *image_shape).
        curvature: d, (R,).
        radius: r, (R,).
        image: which image each row is about, (R,).
        steps: products with AᵀA that look for y.
    """
    flat, d, norm = directions.flatten(1), curvature.unsqueeze(1), quadratic.norm[image]

    def products(flat: Tensor) -> tuple[Tensor, Tensor]:
        """Return A y and AᵀA y of rows."""
        seen = quadratic.apply(flat.view_as(directions), image)
        return seen.flatten(1), quadratic.map.adjoint(seen).flatten(1)

    with torch.no_grad():
        y = _of_length(flat, radius)
        for _ in range(steps):
            y = _of_length(flat + d * products(y)[1], radius)
        seen, back = products(y)
        length = l2_norm(y)
    missed = l2_norm(flat - d * (norm.square().unsqueeze(1) * y - back))
    bent = norm.square() * (radius.square() + length.square()) - seen.square().sum(dim=1)
    with torch.no_grad():
        forward, backward = quadratic.map.roundings
        share = SAFETY * (forward + backward + flat.shape[1]) * torch.finfo(flat.dtype).eps
        slack = share * radius * (l2_norm(flat) + 2 * curvature * radius * (quadratic.absolute + norm).square())
    return radius * missed + curvature / 2 * bent + slack


def _of_length(vectors: Tensor, length: Tensor) -> Tensor:
    """Return vectors, (R, N), with their directions and lengths `length`, (R,); 0 stays 0."""
    norms = torch.linalg.vector_norm(vectors, dim=1)
    return vectors * (length / torch.where(norms == 0, 1, norms)).unsqueeze(1)
