"""Boxes by the dual network of Wong and Kolter: every ReLU is one linear map plus an offset of known range.

Where a ReLU bends over [l, u] both lines have the slope d = u / (u - l), so relu(z) = d z + s with 0 <= s <= -d l. What
earlier layers contribute to a later one are columns sent through one linear map: the input's unit vectors, whose l2
norm counts times epsilon, and every bending neuron's offset d l. Norms are exact, or estimated by k random projections:
Gaussian ones for l2 norms, medians of Cauchy ones for sums of absolute values.

Sources: Wong and Kolter 2018; Wong et al. 2018, section 3.3, and their code for l2 balls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lipcert.crown.ball import Ball
from lipcert.crown.lines import Interval
from lipcert.crown.network import Bend, Linear, Network, Sum
from lipcert.graph.operators import Box, Operator
from lipcert.norms.krylov import per_image


@dataclass(frozen=True)
class Columns:
    """Images of columns under a linear map, (1 or B, k, *shape); `projected`: random mixtures of all of them."""

    values: Tensor
    projected: bool

    def through(self, operator: Operator) -> Columns:
        moved = operator.apply(self.values.flatten(0, 1))
        return replace(self, values=moved.view(*self.values.shape[:2], *operator.output_shape))

    def scaled(self, slopes: Tensor) -> Columns:
        return replace(self, values=self.values * slopes.unsqueeze(1))

    def plus(self, other: Columns) -> Columns:
        return replace(self, values=self.values + other.values)

    def length(self) -> Tensor:
        """Return the l2 norm of every row, (1 or B, *shape): an estimate where projected."""
        norms = torch.linalg.vector_norm(self.values, dim=1)
        return norms / math.sqrt(self.values.shape[1]) if self.projected else norms

    def absolute_sum(self) -> Tensor:
        """Return the sum of absolute values of every row, (B, *shape): an estimate where projected."""
        absolute = self.values.abs()
        return absolute.median(dim=1).values if self.projected else absolute.sum(dim=1)


@dataclass(frozen=True)
class Offsets:
    """Contributions d l of one layer's bending neurons to every neuron here: as columns, and their sum, (B, *shape)."""

    columns: Columns
    total: Tensor

    def through(self, operator: Operator) -> Offsets:
        return Offsets(self.columns.through(operator), operator.apply(self.total))

    def scaled(self, slopes: Tensor) -> Offsets:
        return Offsets(self.columns.scaled(slopes), self.total * slopes)

    def plus(self, other: Offsets) -> Offsets:
        return Offsets(self.columns.plus(other.columns), self.total + other.total)


@dataclass(frozen=True)
class Flow:
    """Everything that reaches a layer: the image with all offsets 0, unit vectors of the input, earlier offsets."""

    center: Tensor
    inputs: Columns
    offsets: Mapping[int, Offsets] = field(default_factory=dict)

    def through(self, operator: Operator) -> Flow:
        moved = {index: each.through(operator) for index, each in self.offsets.items()}
        return Flow(operator.affine(self.center), self.inputs.through(operator), moved)

    def scaled(self, slopes: Tensor) -> Flow:
        moved = {index: each.scaled(slopes) for index, each in self.offsets.items()}
        return Flow(self.center * slopes, self.inputs.scaled(slopes), moved)

    def plus(self, other: Flow) -> Flow:
        joined = dict(self.offsets)
        for index, each in other.offsets.items():
            joined[index] = joined[index].plus(each) if index in joined else each
        return Flow(self.center + other.center, self.inputs.plus(other.inputs), joined)

    def box(self, epsilon: Tensor) -> Box:
        """Return lower and upper bounds of every neuron, (B, *shape); estimates where projected."""
        deviation = per_image(epsilon, self.center.dim()) * self.inputs.length()
        lower, upper = self.center - deviation, self.center + deviation
        for each in self.offsets.values():
            absolute = each.columns.absolute_sum()
            lower, upper = lower - (absolute + each.total) / 2, upper + (absolute - each.total) / 2
        return lower, upper


def dual_boxes(network: Network, ball: Ball, projections: int = 0) -> dict[int, Box]:
    """Return the box of every ReLU by its index, differentiable; estimates where projections are taken.

    Args:
        network: whose clamps are ReLUs.
        ball: the images.
        projections: k; layers of at most so many neurons, and all for 0, are exact.
    """
    boxes: dict[int, Box] = {}
    flows = {0: Flow(ball.images, _unit_columns(ball.images[:1], projections, gaussian=True))}
    for step in network.steps:
        match step:
            case Linear():
                flows[step.index] = flows[step.source].through(step.operator)
            case Bend():
                boxes[step.index] = flows[step.source].box(ball.epsilon)
                flows[step.index] = _behind_relu(step, flows[step.source], boxes[step.index], projections)
            case Sum():
                flows[step.index] = flows[step.sources[0]].plus(flows[step.sources[1]])
        for source in step.sources:
            if network.last_use[source] == step.index:
                flows.pop(source, None)
    return boxes


def _behind_relu(step: Bend, flow: Flow, box: Box, projections: int) -> Flow:
    lower, upper = box
    interval = Interval.of(lower, upper, step.low, step.high)
    slopes = interval.chord()
    offsets = slopes * lower * interval.bends
    columns = _unit_columns(offsets, projections, gaussian=False).scaled(offsets)
    flow = flow.scaled(slopes)
    return replace(flow, offsets={**flow.offsets, step.index: Offsets(columns, offsets)})


def _unit_columns(like: Tensor, projections: int, gaussian: bool) -> Columns:
    """Return unit vectors of the shape of `like` (b, *shape), (b, k, *shape), or random mixtures of them."""
    shape = like.shape[1:]
    size = math.prod(shape)
    if projections == 0 or size <= projections:
        return Columns(torch.eye(size, dtype=like.dtype, device=like.device).view(1, size, *shape), projected=False)
    drawn = torch.empty(len(like), projections, *shape, dtype=like.dtype, device=like.device)
    return Columns(drawn.normal_() if gaussian else drawn.cauchy_(), projected=True)
