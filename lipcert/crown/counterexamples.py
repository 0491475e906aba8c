"""Images within the ball that another class wins: no bound proves anything there, so nothing more is tried."""

from collections.abc import Callable, Sequence

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
    near = Ball(ball.images[rows.image], ball.epsilon[rows.image], ball.clip_input)
    start = near.images - per_image(near.epsilon, near.images.dim()) * _direction(bounds.coefficients)

    def values(points: Tensor) -> Tensor:
        return (outputs(graph, points) * rows.coefficients).flatten(1).sum(dim=1) + rows.constant

    return _reached(values, start, near)


def refuted_from(graph: Graph, images: Tensor, labels: Tensor, epsilons: Sequence[float], clip_input: bool) -> Tensor:
    """Return the least radius at which descent finds a point of another class, (B,); infinity for none.

    Where it finds one at a radius it is not asked about larger ones, where it finds none not about smaller ones.

    Args:
        graph: of the network.
        images: (B, ...).
        labels: (B,).
        epsilons: radii, ascending.
        clip_input: points have pixels in [0, 1].
    """
    tried = images.new_tensor([*epsilons, torch.inf])
    low = torch.zeros(len(images), dtype=torch.long, device=images.device)
    high = torch.full_like(low, len(epsilons))
    while bool((low < high).any()):
        left = (low < high).nonzero()[:, 0]
        middle, others = (low[left] + high[left]) // 2, labels[left].unsqueeze(1)
        near = Ball(images[left], tried[middle], clip_input)

        def values(points: Tensor, own: Tensor = others) -> Tensor:
            logits = outputs(graph, points)
            return (logits.gather(1, own) - logits.scatter(1, own, -torch.inf).amax(dim=1, keepdim=True))[:, 0]

        found = _reached(values, near.images, near)
        high = high.index_put((left,), torch.where(found, middle, high[left]))
        low = low.index_put((left,), torch.where(found, low[left], middle + 1))
    return tried[high]


def _reached(values: Callable[[Tensor], Tensor], point: Tensor, ball: Ball) -> Tensor:
    """Return for which images of a ball, (R,) bool, descent from a point meets a value that is not positive."""
    image, epsilon = ball.images, per_image(ball.epsilon, ball.images.dim())
    point, found = _inside(point, image, epsilon, ball.clip_input), torch.zeros_like(ball.epsilon, dtype=torch.bool)
    for step in range(STEPS + 1):
        with torch.enable_grad():
            point = point.detach().requires_grad_(True)
            value = values(point)
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
