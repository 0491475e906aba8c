"""The least value of a linear bound over the images within epsilon."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.bounds.margins import support
from lipcert.bounds.rounding import l2_norm
from lipcert.crown.substitution import SAFETY, Rows, inner, rounding
from lipcert.norms.krylov import per_image

NORM_SLACK = 1e-9
"""Relative room for the arithmetic of norms and of maxima over ball and box."""


@dataclass(frozen=True)
class Ball:
    """Images x' with |x' - x| <= epsilon in l2, pixels in [0, 1] too if `clip_input`.

    `images`: (B, ...), x; `epsilon`: (B,).
    """

    images: Tensor
    epsilon: Tensor
    clip_input: bool = False

    @property
    def size(self) -> Tensor:
        """Largest absolute pixels, (B, ...)."""
        return self.images.abs() + per_image(self.epsilon, self.images.dim())

    def least(self, rows: Rows) -> Tensor:
        """Return the least value of each row over the ball, (R,), rounding not taken off."""
        return self._at_images(rows) - self._fall(rows)

    def certain(self, rows: Rows) -> Tensor:
        """Return lower bounds of the least values, (R,): rounding taken off."""
        return self._at_images(rows) - self._slack(rows) - self._fall(rows) * (1 + NORM_SLACK)

    def radius(self, rows: Rows, required: Tensor) -> Tensor:
        """Return a radius, at most epsilon, within which each row stays above `required` (R,); 0 for none."""
        above = self._at_images(rows) - self._slack(rows) - required
        norms = l2_norm(rows.coefficients.flatten(1)) * (1 + NORM_SLACK)
        epsilon = self.epsilon[rows.image]
        reach = torch.where(above >= epsilon * norms, epsilon, above / norms * (1 - NORM_SLACK))
        return torch.where(above > 0, reach, 0)

    def _at_images(self, rows: Rows) -> Tensor:
        return inner(rows.coefficients, self.images[rows.image]) + rows.constant

    def _slack(self, rows: Rows) -> Tensor:
        """Return all rounding of each row, its value at the image included, (R,)."""
        operations = self.images[0].numel() + SAFETY
        return rows.slack + rounding(operations, rows.coefficients, self.size[rows.image], rows.constant)

    def _fall(self, rows: Rows) -> Tensor:
        """Return by how much each row may fall below its value at the image, (R,)."""
        directions = -rows.coefficients.flatten(1).unsqueeze(1)
        lower = upper = None
        if self.clip_input:
            images, epsilon = self.images.flatten(1), self.epsilon.unsqueeze(1)
            lower = ((images - epsilon).clamp_min(0) - images)[rows.image]
            upper = ((images + epsilon).clamp_max(1) - images)[rows.image]
        return support(directions, self.epsilon[rows.image], lower, upper)[:, 0]
