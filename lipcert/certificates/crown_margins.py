"""Margins that Lipschitz constants leave undecided, bounded anew by backward linear bounds."""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.bounds import Analysis
from lipcert.crown import Ball, Effort, Rows, proved, proved_state, split_activations


def crown_margins(
    analysis: Analysis, ball: Ball, labels: Tensor, pairs: Tensor, required: Tensor, effort: Effort
) -> tuple[Tensor, Tensor]:
    """Return lower bounds of z_y - z_j of the exact network, (B, K), -infinity outside `pairs`, and proved radii, (B,).

    Within its radius an image's label is ahead of all classes in `pairs` by what is `required`.

    Args:
        analysis: of the images, in float64, with its boxes.
        ball: the images and radii.
        labels: (B,).
        pairs: which class j of which image is undecided, (B, K) bool; at least one.
        required: what the margin has to exceed, (B, K).
        effort: what is tried for each class.
    """
    kept = pairs.any(dim=1).nonzero()[:, 0]
    graph = split_activations(analysis.graph)
    activations = [each.of_images(kept) for each in analysis.activations]
    state, near = proved_state(graph, activations, ball.of_images(kept))
    within, other = pairs[kept].nonzero(as_tuple=True)
    image = kept[within]
    classes = torch.eye(pairs.shape[1], dtype=required.dtype, device=required.device)
    rows = Rows.of(classes[labels[image]] - classes[other], within)
    rows = proved(graph, rows, state, near, effort, required[image, other])
    least, needed = near.certain(rows), required[image, other]
    margins = torch.full_like(required, -torch.inf).index_put((image, other), least)
    reach = torch.where(least > needed, near.epsilon[within], near.radius(rows, needed))
    radii = ball.epsilon.unsqueeze(1).repeat(1, pairs.shape[1]).index_put((image, other), reach)
    return margins, radii.amin(dim=1)
