"""The greatest rise of a linear and a quadratic function together over a ball.

For A with |A| <= s, every n > d s² and every y

    max { q·δ + (d / 2) |A δ|² : |δ| <= r }  <=  n r² / 2 + [2 q·y - yᵀ B y + |q - B y|² / (n - d s²)] / 2,

B = n I - d AᵀA: the left side is at most n r² / 2 + qᵀ B⁻¹ q / 2 for any n (Lagrange), and B is at least n - d s². What
is left of q after y is what y misses; y is taken from a Krylov space of AᵀA and q, n from a grid.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lipcert.bounds.rounding import l2_norm
from lipcert.graph.operators import LinearMap, largest_absolute

SAFETY = 4
"""Factor on bounds of rounding errors."""

ROOM = 1e-3
"""n stays above (1 + ROOM) d s²."""

COARSE, FINE = 2.0, 2.0**0.125
"""Ratios between neighbouring n - d s² that are tried, first and around the best of the first."""


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
        steps: dimension of the Krylov space.
    """
    square = quadratic.norm[image].square()
    with torch.no_grad():
        y, seen, back, room = _maximiser(quadratic, directions, curvature, radius, image, steps)
    flat, y, back = directions.flatten(1), y.flatten(1), back.flatten(1)
    steepest = curvature * square
    n = steepest * (1 + ROOM) + room
    length, seen_length = y.square().sum(dim=1), seen.flatten(1).square().sum(dim=1)
    left = flat - n.unsqueeze(1) * y + curvature.unsqueeze(1) * back
    missed = left.square().sum(dim=1) / (n - steepest)
    inner = 2 * (flat * y).sum(dim=1) - n * length + curvature * seen_length
    value = (n * radius.square() + inner + missed) / 2
    with torch.no_grad():
        forward, backward = quadratic.map.roundings
        share = SAFETY * (forward + backward + flat.shape[1]) * torch.finfo(value.dtype).eps
        product = share * curvature * quadratic.absolute.square() * length.sqrt()
        terms = (flat * y).abs().sum(dim=1) + n * (length + radius.square()) + missed
        off = product / (n - steepest).sqrt()
        slack = product * length.sqrt() + (2 * missed.sqrt() + off) * off + share * terms
    return value + slack


def _maximiser(
    quadratic: Quadratic, directions: Tensor, curvature: Tensor, radius: Tensor, image: Tensor, steps: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return y with A y and AᵀA y, and n - (1 + ROOM) d s², (R,), which make the bound small."""
    shape, length = directions.shape, l2_norm(directions.flatten(1))
    vector = directions.flatten(1) / torch.where(length > 0, length, 1).unsqueeze(1)
    basis, images = [vector], list[Tensor]()
    for _ in range(steps):
        images.append(quadratic.apply(basis[-1].view(shape), image))
        vector = quadratic.map.adjoint(images[-1]).flatten(1)
        for _ in range(2):  # once more, for what rounding leaves
            for other in basis:
                vector = vector - (vector * other).sum(dim=1, keepdim=True) * other
        rest = torch.linalg.vector_norm(vector, dim=1)
        basis.append(vector / torch.where(rest > 0, rest, 1).unsqueeze(1))
    seen = torch.stack([each.flatten(1) for each in images], dim=1)
    values, vectors = torch.linalg.eigh((seen @ seen.transpose(1, 2)).nan_to_num(0.0, 0.0, 0.0))
    first, last = vectors[:, 0] * length.unsqueeze(1), vectors[:, -1] * (curvature * rest).unsqueeze(1)
    steepest = curvature * quadratic.norm[image].square()

    def tried(room: Tensor) -> Tensor:
        """Return the bound at (R, G) of n, exact but for rounding."""
        n = steepest.unsqueeze(1) * (1 + ROOM) + room
        parts = first.unsqueeze(1) / (n.unsqueeze(2) - (curvature.unsqueeze(1) * values).unsqueeze(1))
        missed = (parts * last.unsqueeze(1)).sum(dim=2).square() / (n - steepest.unsqueeze(1))
        return n * radius.square().unsqueeze(1) + (parts * first.unsqueeze(1)).sum(dim=2) + missed

    room = (length / radius).clamp_min(torch.finfo(length.dtype).tiny).unsqueeze(1)
    for ratio, count in ((COARSE, 12), (FINE, 8)):
        grid = room * ratio ** torch.arange(-count, count // 2 + 1, dtype=room.dtype, device=room.device)
        room = grid.gather(1, tried(grid).nan_to_num(torch.inf).argmin(dim=1, keepdim=True))
    n = steepest.unsqueeze(1) * (1 + ROOM) + room
    shares = first / (n - curvature.unsqueeze(1) * values)
    weights = (vectors @ shares.unsqueeze(2))[..., 0]
    y = sum((weights[:, index : index + 1] * each for index, each in enumerate(basis[:-1])), torch.zeros_like(vector))
    above = (weights.unsqueeze(1) @ seen)[:, 0].view(len(seen), *images[0].shape[1:])
    return y.view(shape), above, quadratic.map.adjoint(above), room[:, 0]
