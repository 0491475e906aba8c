"""Boxes by the dual network of Wong and Kolter: every ReLU is one linear map plus an offset of known range.

Where a ReLU bends over [l, u] both lines have the slope d = u / (u - l), so relu(z) = d z + s with 0 <= s <= -d l. What
earlier layers contribute to a later one are columns sent through one linear map: the input's unit vectors, whose l2
norm counts times epsilon, and every bending neuron's offset d l. Norms are exact, or estimated by k random projections:
Gaussian ones for l2 norms, medians of Cauchy ones for sums of absolute values.

Sources: Wong and Kolter 2018; Wong et al. 2018, section 3.3, and their code for l2 balls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Set
from typing import NamedTuple

import torch
from torch import Tensor

from lipcert.crown.ball import Ball
from lipcert.crown.state import State
from lipcert.graph import Activation, Add, Affine, Box, Graph, Image, Operator
from lipcert.norms.krylov import per_image


class Flow(NamedTuple):
    """What reaches a node, h: its value at the image with all offsets 0, `center`, (B, *shape), and columns.

    `columns`: (1 or B, k, *shape), by the node they start from. Those of the image (index 0) are what its unit vectors
    become; those of a ReLU its offsets d l, one neuron after the other, and last their sum. Where there are more than
    as many neurons as projections, all but the sum are random mixtures of them.
    """

    center: Tensor
    columns: Mapping[int, Tensor]

    def through(self, operator: Operator) -> Flow:
        """Return the flow behind an affine map."""
        moved = {
            index: operator.apply(each.flatten(0, 1)).unflatten(0, each.shape[:2])
            for index, each in self.columns.items()
        }
        return Flow(operator.affine(self.center), moved)

    def scaled(self, slopes: Tensor) -> Flow:
        """Return the flow behind a product with `slopes`, (B, *shape)."""
        return Flow(self.center * slopes, {index: each * slopes.unsqueeze(1) for index, each in self.columns.items()})

    def plus(self, other: Flow) -> Flow:
        """Return the flow behind a sum."""
        joined = dict(self.columns)
        for index, each in other.columns.items():
            joined[index] = joined[index] + each if index in joined else each
        return Flow(self.center + other.center, joined)


def dual_boxes(graph: Graph, ball: Ball, projections: int = 0) -> dict[int, Box]:
    """Return the box of every ReLU by its index, differentiable; estimates where projections are taken.

    Args:
        graph: whose activations are ReLUs.
        ball: the images.
        projections: k; layers of at most so many neurons, and all for 0, are exact.
    """
    projected = {node.index for node in graph.nodes if 0 < projections < math.prod(node.shape)}
    operators, flows, boxes = graph.operators(), dict[int, Flow](), dict[int, Box]()
    for node in graph.nodes:
        before = [flows[source] for source in node.sources]
        count = projections if node.index in projected else None
        match node:
            case Image():
                flows[0] = Flow(ball.images, {0: _unit_columns(ball.images[:1], count, torch.Tensor.normal_)})
            case Affine():
                flows[node.index] = before[0].through(operators[node.index])
            case Add():
                flows[node.index] = before[0].plus(before[1])
            case Activation():
                lower, _ = boxes[node.index] = _box(before[0], ball.epsilon, projected)
                interval = State(boxes).interval(node)
                offsets = (interval.chord() * lower * interval.bends).unsqueeze(1)
                columns = _unit_columns(lower, count, torch.Tensor.cauchy_) * offsets
                center, earlier = before[0].scaled(interval.chord())
                flows[node.index] = Flow(center, {**earlier, node.index: torch.cat((columns, offsets), dim=1)})
        for source in node.sources:
            if graph.last_use[source] == node.index:
                flows.pop(source, None)
    return boxes


def _box(flow: Flow, epsilon: Tensor, projected: Set[int]) -> Box:
    """Return lower and upper bounds of every neuron, (B, *shape); estimates where columns are projected."""
    units = flow.columns[0]
    lengths = torch.linalg.vector_norm(units, dim=1) / (math.sqrt(units.shape[1]) if 0 in projected else 1)
    deviation = per_image(epsilon, flow.center.dim()) * lengths
    lower, upper = flow.center - deviation, flow.center + deviation
    for index, columns in flow.columns.items():
        if index:
            absolute, total = columns[:, :-1].abs(), columns[:, -1]
            reach = absolute.median(dim=1).values if index in projected else absolute.sum(dim=1)
            lower, upper = lower - (reach + total) / 2, upper + (reach - total) / 2
    return lower, upper


def _unit_columns(like: Tensor, count: int | None, draw: Callable[[Tensor], Tensor]) -> Tensor:
    """Return unit vectors of the shape of `like`, (b, *shape), as (1, k, *shape), or mixtures, (b, count, *shape)."""
    shape = like.shape[1:]
    if count is None:
        return torch.eye(math.prod(shape), dtype=like.dtype, device=like.device).unflatten(1, shape).unsqueeze(0)
    return draw(torch.empty(len(like), count, *shape, dtype=like.dtype, device=like.device))
