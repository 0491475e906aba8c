"""What a network says at an attack's points."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def margins(model: nn.Module, points: Tensor, labels: Tensor) -> Tensor:
    """Return z_y - max of the other logits as executed, their difference in float64, (B,); -inf for NaN."""
    logits = model(points).double()
    is_label = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    margin = logits[is_label] - logits.masked_fill(is_label, -torch.inf).amax(dim=1)
    return margin.masked_fill(margin.isnan(), -torch.inf)


@torch.no_grad()
def correct(model: nn.Module, points: Tensor, labels: Tensor) -> Tensor:
    """Return which points are classified as their label, (B,) bool; a point with a NaN among its logits is not."""
    logits = model(points)
    return (logits.argmax(dim=1) == labels) & ~logits.isnan().any(dim=1)
