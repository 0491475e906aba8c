"""CAP: cross-entropy of worst logits over the convex relaxation of a ReLU network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.crown import Ball, Interval, Rows, State, dual_boxes, network_of, substitute
from lipcert.graph import Clamp, Graph, UnsupportedLayerError, compile_graph
from lipcert.losses.objective import Objective, Setting, after_warm_up
from lipcert.losses.options import check_whole


def cap_logits(
    model: nn.Module | Graph,
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
        model: of plain ReLUs, or its graph.
        images: (B, ...), pixels in [0, 1].
        labels: (B,).
        epsilon: l2 radius in pixels.
        num_classes: K.
        projections: random ones; where they are fewer than a layer's neurons, and not 0, bounds become estimates.
        clip_input: intersect the ball's box with [0, 1].

    Raises:
        UnsupportedLayerError: for clipped activations, and for MaxMin.
    """
    graph = model if isinstance(model, Graph) else compile_graph(model, images.shape[1:])
    for node in graph.activations:
        if not (isinstance(node.function, Clamp) and node.function.low == 0 and node.function.high is None):
            raise UnsupportedLayerError(
                f"Layer {node.name!r}: the dual network is that of ReLUs without thresholds, "
                f"not of {type(node.layer).__name__}."
            )
    network = network_of(graph, images)
    ball = Ball(images, torch.full((len(images),), epsilon, dtype=images.dtype, device=images.device), clip_input)
    state = State(dual_boxes(network, ball, projections), otherwise=Interval.parallel)
    image = torch.arange(len(images), device=images.device).repeat_interleave(num_classes - 1)
    offsets = torch.arange(1, num_classes, device=images.device).repeat(len(images))
    other = (labels[image] + offsets) % num_classes
    units = torch.eye(num_classes, dtype=images.dtype, device=images.device)
    rows = substitute(network, Rows.of(units[labels[image]] - units[other], image), state)
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
        self.projections = check_whole("projections", projections, 0)

    @after_warm_up
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Objective:
        logits = model(images)
        worst = cap_logits(
            setting.graph or model,
            images,
            labels,
            setting.epsilon,
            logits.shape[1],
            self.projections,
            setting.clip_input,
        )
        return Objective(F.cross_entropy(worst, labels), logits)
