"""Margins, and radii made of them: what CRM and CLL have in common."""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.bounds import Analysis, worst_increase
from lipcert.losses.objective import MARGIN_ROUNDS

SMALLEST_SLOPE = 1e-6
"""Pairs of classes whose logits hardly differ in slope are given this one, so that radii stay finite."""

LARGEST_RADIUS = 1e6
"""Pixels; larger radii are set to this, without a gradient."""


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Return z_y - z_j, (B, K); 0 for the label. `logits`: (B, K); `labels`: (B,)."""
    return logits.gather(1, labels.unsqueeze(1)) - logits


def pair_slopes(analysis: Analysis, labels: Tensor, box: bool) -> Tensor:
    """Return by how much z_j - z_y may grow inside the region, a pixel of its radius: (B, K).

    Without the box it is ||w_j - w_y|| L(x), a Lipschitz constant of the pair up to the radius epsilon. With the box
    it is smaller, and tells what happens at the radius epsilon only.
    """
    return worst_increase(analysis, labels, box, MARGIN_ROUNDS) / analysis.region.epsilon.unsqueeze(1)


def pair_radii(margins: Tensor, slopes: Tensor) -> Tensor:
    """Return margins / slopes, (B, K), kept between finite limits.

    A radius is at least epsilon just where the bound at epsilon certifies the pair. For a global bound without the
    box it is a lower bound of the distance to the pair's decision boundary, at any length.
    """
    slopes = slopes.clamp_min(SMALLEST_SLOPE)
    far = margins > LARGEST_RADIUS * slopes
    radii = torch.where(far, 1.0, margins) / torch.where(far, 1.0, slopes)
    return torch.where(far, LARGEST_RADIUS, radii)
