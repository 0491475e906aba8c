"""Images within the ball that another class wins: no bound proves anything there, so nothing more is tried."""

import torch
from torch import Tensor

from lipcert.bounds.rounding import l2_norm
from lipcert.crown.ball import Ball
from lipcert.crown.substitution import Rows
from lipcert.graph import Activation, Add, Affine, Graph
from lipcert.norms.krylov import per_image

STEPS, STEP_SIZE = 20, 0.3
"""Of the descent, in units of epsilon; the last are a tenth as long."""


def refuted(graph: Graph, rows: Rows, bounds: Rows, ball: Ball) -> Tensor:
    """Return which rows, (R,) bool, are not positive everywhere in their ball, as descent finds.

    It starts where the linear bound of the row is least.

    Args:
        graph: of the network.
        rows: at the output.
        bounds: the same at the image.
        ball: the images.
    """
    image = ball.images[rows.image]
    epsilon = per_image(ball.epsilon[rows.image], image.dim())
    point = _inside(image - epsilon * _direction(bounds.coefficients), image, epsilon, ball.clip_input)
    found = torch.zeros_like(rows.image, dtype=torch.bool)
    for step in range(STEPS + 1):
        with torch.enable_grad():
            point = point.detach().requires_grad_(True)
            value = (outputs(graph, point) * rows.coefficients).flatten(1).sum(dim=1) + rows.constant
            (slope,) = torch.autograd.grad(value.sum(), point)
        found |= value.detach() <= 0
        size = STEP_SIZE * (1 - 0.9 * step / STEPS)
        point = _inside(point.detach() - size * epsilon * _direction(slope), image, epsilon, ball.clip_input)
    return found


def outputs(graph: Graph, images: Tensor) -> Tensor:
    """Return the logits of images (B, ...), (B, K)."""
    operators, values = graph.operators(), {0: images}
    for node in graph.nodes[1:]:
        before = [values[source] for source in node.sources]
        match node:
            case Affine():
                values[node.index] = operators[node.index].affine(*before)
            case Activation():
                values[node.index] = node.function.apply(*before)
            case Add():
                values[node.index] = before[0] + before[1]
    return values[len(graph.nodes) - 1]


def _direction(vectors: Tensor) -> Tensor:
    """Return vectors of length 1, or 0."""
    length = l2_norm(vectors.flatten(1))
    return vectors / per_image(torch.where(length > 0, length, 1), vectors.dim())


def _inside(points: Tensor, image: Tensor, epsilon: Tensor, clip: bool) -> Tensor:
    """Return points brought into the ball, and into [0, 1] if `clip`."""
    away = points - image
    length = per_image(l2_norm(away.flatten(1)), away.dim())
    points = image + away * (epsilon / torch.where(length > epsilon, length, epsilon))
    return points.clamp(0, 1) if clip else points
