"""The backward pass: a linear lower bound at some node becomes one at the image, node after node."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lipcert.crown.ball_box import Pieces, least_remainder
from lipcert.crown.lines import Interval, Lines
from lipcert.crown.state import State
from lipcert.graph import Activation, Add, Affine, Graph, Operator, PairSort
from lipcert.nn.activations import split_pairs

SAFETY = 2
"""Factor on bounds of rounding errors, for those that the bounds themselves take and for products of two."""

UNDERFLOW = 1e-200
"""Added to coefficients where rounding is bounded: more than products of coefficients and weights lose to underflow."""

LARGEST_CHUNK = 2**20
"""Entries of the widest layer's rows, and slopes to optimise, that are handled at a time."""


class Rows(NamedTuple):
    """Linear lower bounds `coefficients`·h + `constant` of quantities at the output, h the value at some node.

    `coefficients`: (R, *shape); `constant`: (R,); `image`: (R,), which image of the batch a row is about.
    `slack`: (R,), how much rounding may have raised the bounds in all.
    """

    coefficients: Tensor
    constant: Tensor
    slack: Tensor
    image: Tensor

    @classmethod
    def of(cls, coefficients: Tensor, image: Tensor) -> Rows:
        """Return rows without a constant."""
        zeros = coefficients.new_zeros(len(image))
        return cls(coefficients, zeros, zeros, image)


def rows_at_a_time(graph: Graph) -> int:
    """Return how many rows to take through a graph at a time."""
    return max(1, LARGEST_CHUNK // max(math.prod(node.shape) for node in graph.nodes))


def substitute(graph: Graph, rows: Rows, state: State, at: int | None = None) -> Rows:
    """Return linear lower bounds at the image, given those at node `at`, the output when None.

    Args:
        graph: whose activations are split, see `split_activations`.
        rows: at the node.
        state: of the graph.
        at: index of the node.

    Raises:
        UnsupportedLayerError: for a layer that is not affine in its present mode.
    """
    at = len(graph.nodes) - 1 if at is None else at
    operators, backward = graph.operators(), _Backward(state, rows, at)
    for node in reversed(graph.nodes[1 : at + 1]):
        coefficients = backward.coefficients.pop(node.index, None)
        if coefficients is None:
            continue
        match node:
            case Affine():
                backward.affine(node, coefficients, operators[node.index])
            case Activation():
                backward.activation(node, coefficients)
            case Add():
                for source in node.sources:
                    backward.arrive(source, coefficients)
    nothing = rows.constant.new_zeros(len(rows.constant), *graph.image_shape)
    return Rows(backward.coefficients.get(0, nothing), backward.constant, backward.slack, rows.image)


def inner(coefficients: Tensor, values: Tensor) -> Tensor:
    """Return the inner product of each row, (R,)."""
    return (coefficients * values).flatten(1).sum(dim=1)


def rounding(operations: int, coefficients: Tensor, sizes: Tensor, constant: Tensor) -> Tensor:
    """Return a bound on the errors of so many rounded operations in a row, relative to |coefficients|·sizes, (R,).

    `coefficients`, `sizes`: (R, *shape); `constant`: (R,), what products are added to.
    """
    share = SAFETY * operations * torch.finfo(constant.dtype).eps / 2
    return share * (inner(coefficients.abs() + UNDERFLOW, sizes) + constant.abs())


class _Backward:
    """Rows on their way: coefficients of the nodes still to be followed, by index, and the constant so far."""

    def __init__(self, state: State, rows: Rows, at: int) -> None:
        self.state, self.image = state, rows.image
        self.coefficients = {at: rows.coefficients}
        self.constant, self.slack = rows.constant, rows.slack

    def _round(self, operations: int, coefficients: Tensor, sizes: Tensor) -> None:
        """Add the errors of `operations` roundings relative to |coefficients|·sizes."""
        self.slack = self.slack + rounding(operations, coefficients, sizes, self.constant)

    def arrive(self, index: int, coefficients: Tensor) -> None:
        """Add coefficients of the node `index`."""
        if index in self.coefficients:
            other = self.coefficients[index]
            if self.state.sizes is not None:
                self._round(4, other.abs() + coefficients.abs(), self.state.sizes[index][self.image])
            coefficients = other + coefficients
        self.coefficients[index] = coefficients

    def affine(self, node: Affine, coefficients: Tensor, operator: Operator) -> None:
        if self.state.sizes is not None:
            operations = operator.products()[1] + math.prod(node.shape) + 2
            self._round(operations, coefficients, self.state.sizes[node.index][self.image])
        before = operator.adjoint(coefficients)
        offset = operator.affine(before.new_zeros(1, *node.input_shape))
        self.constant = self.constant + inner(coefficients, offset)
        self.arrive(node.sources[0], before)

    def activation(self, node: Activation, coefficients: Tensor) -> None:
        source, sorts = node.sources[0], isinstance(node.function, PairSort)
        passed = None
        if sorts:  # x max(a, b) + y min(a, b) = y a + x b + (x - y) relu(a - b)
            larger, smaller = split_pairs(coefficients)
            passed, coefficients = torch.cat((smaller, larger), dim=1), larger - smaller
        before = self._bent(node, coefficients)
        if passed is not None:
            bent = torch.cat((before, -before), dim=1)
            if self.state.sizes is not None:
                self._round(4, passed.abs() + bent.abs(), self.state.sizes[source][self.image])
            before = passed + bent
        held = self.state.held.get(node.index)
        if held is not None:
            needed, center = (each[self.image] for each in held)
            self.constant = self.constant + inner(before * (1 - needed), center)
            before = before * needed
        self.arrive(source, before)

    def _bent(self, node: Activation, coefficients: Tensor) -> Tensor:
        """Return the slopes that stand in for a row's clamps, (R, *shape); what they leave goes to the constant."""
        lines, sizes = self._lines(node)
        if sizes is not None:
            self._round(math.prod(node.shape) + 8, coefficients, sizes)
        below = coefficients >= 0
        slopes = coefficients * torch.where(below, lines.lower_slope, lines.upper_slope)
        gaps = coefficients * torch.where(below, lines.lower_intercept, lines.upper_intercept)
        if node.index not in self.state.balls:
            self.constant = self.constant + gaps.flatten(1).sum(dim=1)
        else:
            self._over_ball(node, coefficients, slopes, gaps)
        return slopes

    def _over_ball(self, node: Activation, coefficients: Tensor, slopes: Tensor, gaps: Tensor) -> None:
        """Add the least value of what `slopes` leave of the clamps; `gaps`: that over the box, entry by entry."""
        interval, near, image = self.state.interval(node), self.state.balls[node.index], self.image
        varies = interval.varies.flatten(1)
        self.constant = self.constant + torch.where(varies[image], 0, gaps.flatten(1)).sum(dim=1)
        most = int(varies.sum(dim=1).amax())
        if most == 0:
            return
        order = varies.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        valid = varies.gather(1, order)
        center = near.center.flatten(1).gather(1, order)

        def chosen(values: Tensor) -> Tensor:
            """Return the entries of images that vary; others stand still at their centers."""
            return torch.where(valid, values.flatten(1).gather(1, order), center)[image]

        def of_rows(values: Tensor) -> Tensor:
            return torch.where(valid[image], values.flatten(1).gather(1, order[image]), 0)

        clamp = Interval(
            tuple(map(chosen, interval.points)),  # type: ignore[arg-type]
            tuple(map(chosen, interval.values)),  # type: ignore[arg-type]
            interval.bends_up,
            interval.bends_down,
        )
        pieces = Pieces(of_rows(coefficients), of_rows(slopes), center[image], clamp)
        radius = near.radius[image]
        found = least_remainder(pieces, radius, of_rows(gaps).sum(dim=1))
        self.constant = self.constant + found.value
        if self.state.sizes is not None:
            ends = clamp.size.square().sum(dim=1) * torch.finfo(found.value.dtype).eps
            squares = found.spread + radius.square() + ends
            self._round(most + 8, found.multiplier.unsqueeze(1), squares.unsqueeze(1))

    def _lines(self, node: Activation) -> tuple[Lines, Tensor | None]:
        """Return the lines of each row, and what their rounding is relative to where it counts, (R, *shape)."""
        state, slopes = self.state, self.state.slopes.get(node.index)
        interval = state.interval(node, None if slopes is None else self.image)
        lines = interval.lines(state.otherwise(interval) if slopes is None else slopes)
        sizes = None if state.sizes is None else lines.magnitude(interval.size)
        if slopes is None:  # lines of images, of which there are fewer than rows
            lines = Lines(*(each[self.image] for each in lines))
            sizes = None if sizes is None else sizes[self.image]
        return lines, sizes
