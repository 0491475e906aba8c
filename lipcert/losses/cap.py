"""CAP: cross-entropy of worst logits over the convex relaxation of a ReLU network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.bounds import UnsupportedLayerError
from lipcert.bounds.backward import Ball, Interval, Rows, State, clamps, dual_boxes, nodes_of, substitute
from lipcert.losses.objective import Objective, Setting
from lipcert.losses.options import check_whole
from lipcert.losses.standard import after_warm_up
from lipcert.nn import MaxMin


def cap_logits(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    num_classes: int,
    projections: int = 0,
    clip_input: bool = False,
) -> Tensor:
    """Return upper bounds of z_j - z_y over the l2 ball, 0 for the label, (B, K): J of Wong and Kolter, negated.

    Differentiable.

    Args:
        model: of plain ReLUs.
        images: (B, ...), pixels in [0, 1].
        labels: (B,).
        epsilon: l2 radius in pixels.
        num_classes: K.
        projections: random ones; where they are fewer than a layer's neurons, and not 0, bounds become estimates.
        clip_input: intersect the ball's box with [0, 1].

    Raises:
        UnsupportedLayerError: for clipped activations, and for MaxMin.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, MaxMin):
            raise UnsupportedLayerError(f"Layer {name!r}: the dual network is that of ReLUs, not of MaxMin.")
    nodes = nodes_of(model, images)
    for clamp in clamps(nodes):
        if not (bool((clamp.low == 0).all()) and bool(clamp.high.isinf().all())):
            raise UnsupportedLayerError(
                f"Layer {clamp.activation!r}: the dual network is that of ReLUs without thresholds."
            )
    ball = Ball(images, torch.full((len(images),), epsilon, dtype=images.dtype, device=images.device), clip_input)
    state = State(dual_boxes(nodes, ball, projections), otherwise=Interval.parallel)
    image = torch.arange(len(images), device=images.device).repeat_interleave(num_classes - 1)
    offsets = torch.arange(1, num_classes, device=images.device).repeat(len(images))
    other = (labels[image] + offsets) % num_classes
    units = torch.eye(num_classes, dtype=images.dtype, device=images.device)
    rows = substitute(nodes, Rows.of(units[labels[image]] - units[other], image), state)
    return images.new_zeros(len(images), num_classes).index_put((image, other), -ball.least(rows))


class CAP:
    """Cross-entropy of the worst logits alone, epsilon rising by schedule (Wong and Kolter 2018; Wong et al. 2018).

    Args:
        projections: random projections with which norms of wide layers are estimated; 0 for exact ones.

    Raises:
        ValueError: for projections below 0 or no whole number.
    """

    name = "cap"
    activations = ("relu",)

    def __init__(self, projections: int = 50) -> None:
        check_whole("projections", projections, 0)
        self.projections = projections

    @after_warm_up
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Objective:
        logits = model(images)
        worst = cap_logits(
            model, images, labels, setting.epsilon, logits.shape[1], self.projections, setting.clip_input
        )
        return Objective(F.cross_entropy(worst, labels), logits)
