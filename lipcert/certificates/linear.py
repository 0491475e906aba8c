"""Margins that Lipschitz constants leave open, bounded anew by backward linear bounds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lipcert.bounds import Analysis
from lipcert.bounds.backward import Ball, Rows, bounded, nodes_of, proved_state, refined
from lipcert.bounds.lazy import Lazy

LARGEST_REFINED = 4096
"""Neurons of a layer, an image, whose boxes are refined at most."""


@dataclass(frozen=True)
class Margins:
    """Lower bounds of z_y - z_j over the region, (B, K), infinite for the label: of the exact network, as executed."""

    exact: Tensor
    executed: Tensor

    @classmethod
    def of(cls, exact: Tensor, executed: Tensor, labels: Tensor) -> Margins:
        """Return margins from worst logits (B, K)."""
        is_label = torch.nn.functional.one_hot(labels, exact.shape[1]).bool()
        own = labels.unsqueeze(1)
        gaps = [(worst.gather(1, own) - worst).masked_fill(is_label, torch.inf) for worst in (exact, executed)]
        return cls(*gaps)

    def smallest(self) -> tuple[Tensor, Tensor]:
        """Return both over all classes, (B,). NaN stays NaN."""
        return self.exact.amin(dim=1), self.executed.amin(dim=1)


@dataclass(frozen=True)
class Problem:
    """What margins are asked for: images, labels (B,), and rounding, (B, K).

    `rounding`: by how much executed margins may be smaller than exact ones. `required`: what an exact margin has to
    exceed for a certificate.
    """

    ball: Ball
    labels: Tensor
    rounding: Tensor
    required: Tensor


def tightened(
    model: nn.Module, analysis: Analysis, margins: Margins, problem: Problem, hopeful: Tensor, steps: int
) -> tuple[Margins, Tensor]:
    """Return larger margins of the classes still open, and radii within which no class overtakes the label, (B,).

    Args:
        model: float64, in eval mode; `analysis` has accepted it.
        analysis: of the images, with its boxes.
        margins: by Lipschitz constants.
        problem: images, labels, rounding.
        hopeful: (B,), images to work on.
        steps: of the optimisation of slopes; 0 for the closest lines.
    """
    ball, labels, rounding = problem.ball, problem.labels, problem.rounding
    kept = hopeful.nonzero()[:, 0]
    near = replace(ball, images=ball.images[kept], epsilon=ball.epsilon[kept])
    nodes = nodes_of(model, ball.images)
    activations = [replace(each, box=Lazy.of((each.lower[kept], each.upper[kept]))) for each in analysis.activations]
    state = refined(nodes, proved_state(nodes, activations, near), near, LARGEST_REFINED)
    within, other = (~(margins.executed[kept] > 0)).nonzero(as_tuple=True)
    image = kept[within]
    required = problem.required[image, other]
    classes = torch.eye(rounding.shape[1], dtype=rounding.dtype, device=rounding.device)
    rows = Rows.of(classes[labels[image]] - classes[other], within)
    rows = bounded(nodes, rows, state, near, steps, required)
    exact = near.certain(rows)
    tight = Margins(
        _raised(margins.exact, image, other, exact),
        _raised(margins.executed, image, other, exact - rounding[image, other]),
    )
    reached = ball.epsilon.unsqueeze(1).repeat(1, rounding.shape[1])
    reached = reached.index_put((image, other), near.radius(rows, required)).amin(dim=1)
    return tight, torch.where(hopeful, reached, 0)


def _raised(margins: Tensor, image: Tensor, other: Tensor, found: Tensor) -> Tensor:
    """Return margins with those of (image, other) that `found` raises; NaN raises nothing."""
    known = margins[image, other]
    return margins.index_put((image, other), torch.where(found > known, found, known))
