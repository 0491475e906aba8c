"""The least value of a linear bound over the images within epsilon."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.bounds.margins import support
from lipcert.bounds.rounding import l2_norm
from lipcert.crown.substitution import NORM_SLACK, SAFETY, Rows, inner, rounding
from lipcert.crown.trust_region import Quadratic, greatest_rise
from lipcert.norms.krylov import per_image

QUICK, THOROUGH = 2, 8
"""Dimensions of Krylov spaces, on the way and at the end."""


@dataclass(frozen=True)
class Ball:
    """Images x' with |x' - x| <= epsilon in l2, pixels in [0, 1] too if `clip_input`.

    `images`: (B, ...), x; `epsilon`: (B,). `quadratic`: what the quadratic parts of rows are about, None where these
    have none.
    """

    images: Tensor
    epsilon: Tensor
    clip_input: bool = False
    quadratic: Quadratic | None = None

    def of_images(self, index: Tensor) -> Ball:
        """Return the balls around images `index`, (N,), which may be there several times."""
        quadratic = self.quadratic and self.quadratic.of_images(index)
        return Ball(self.images[index], self.epsilon[index], self.clip_input, quadratic)

    @property
    def size(self) -> Tensor:
        """Largest absolute pixels, (B, ...)."""
        return self.images.abs() + per_image(self.epsilon, self.images.dim())

    def least(self, rows: Rows) -> Tensor:
        """Return the least value of each row over the ball, (R,), rounding not taken off."""
        return self._at_images(rows) - self._fall(rows, QUICK)

    def certain(self, rows: Rows, steps: int = THOROUGH) -> Tensor:
        """Return lower bounds of the least values, (R,): rounding taken off, balls on the way counted.

        `steps`: dimension of Krylov spaces.
        """
        value = self._at_images(rows) - self._slack(rows) - self._fall(rows, steps) * (1 + NORM_SLACK)
        return torch.where(value < rows.stops, rows.stops, value)

    def radius(self, rows: Rows, required: Tensor) -> Tensor:
        """Return a radius, at most epsilon, within which each row stays above `required` (R,); 0 for none."""
        above = self._at_images(rows) - self._slack(rows) - required
        norms = l2_norm(rows.coefficients.flatten(1)) * (1 + NORM_SLACK)
        bends = 0 if self.quadratic is None else rows.curvature * self.quadratic.norm[rows.image].square()
        reach = 2 * above / (norms + (norms.square() + 2 * bends * above).sqrt()) * (1 - NORM_SLACK)
        return torch.where(above > 0, torch.minimum(reach, self.epsilon[rows.image]), 0)

    def _at_images(self, rows: Rows) -> Tensor:
        return inner(rows.coefficients, self.images[rows.image]) + rows.constant

    def _slack(self, rows: Rows) -> Tensor:
        """Return all rounding of each row, its value at the image included, (R,)."""
        operations = self.images[0].numel() + SAFETY
        return rows.slack + rounding(operations, rows.coefficients, self.size[rows.image], rows.constant)

    def _fall(self, rows: Rows, steps: int) -> Tensor:
        """Return by how much each row may fall below its value at the image, (R,)."""
        directions, epsilon = rows.coefficients.flatten(1), self.epsilon[rows.image]
        lower = upper = None
        if self.clip_input:
            images, reach = self.images.flatten(1), self.epsilon.unsqueeze(1)
            lower = ((images - reach).clamp_min(0) - images)[rows.image]
            upper = ((images + reach).clamp_max(1) - images)[rows.image]
        fall = support(-directions.unsqueeze(1), epsilon, lower, upper)[:, 0]
        if self.quadratic is None:
            return fall
        apart = fall + rows.curvature * (self.quadratic.norm[rows.image] * epsilon).square() / 2
        together = greatest_rise(self.quadratic, rows.coefficients, rows.curvature, epsilon, rows.image, steps)
        return torch.where(together < apart, together, apart)
