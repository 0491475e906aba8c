"""The backward pass: a linear lower bound at the logits becomes one at the image, node after node."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lipcert.bounds.backward.lines import Interval, Lines, Shares
from lipcert.bounds.backward.nodes import Affine, Box, Clamp, Node, Sum

SAFETY = 2
"""Factor on bounds of rounding errors, for those that the bounds themselves take and for products of two."""

UNDERFLOW = 1e-200
"""Added to coefficients where rounding is bounded: more than products of coefficients and weights lose to underflow."""


@dataclass(frozen=True)
class Rows:
    """Linear lower bounds `coefficients`·h + `constant` of quantities at the output, h the value at some place.

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


@dataclass(frozen=True)
class State:
    """What a backward pass knows of a batch.

    Attributes:
        boxes: of the input of every clamp, (B, *shape).
        magnitudes: what rounding errors are relative to, see `magnitudes`; None to leave them out.
        shares: slopes of rows, (R, *shape).
        otherwise: slopes of images, for clamps without `shares`: the closest lines.
    """

    boxes: Mapping[Clamp, Box]
    magnitudes: Mapping[Node, Tensor] | None = None
    shares: Mapping[Clamp, Shares] = field(default_factory=dict)
    otherwise: Callable[[Interval], Shares] = Interval.closest

    def interval(self, clamp: Clamp, image: Tensor) -> Interval:
        """Return a clamp over the boxes of `image`, (R,)."""
        lower, upper = self.boxes[clamp]
        return Interval.of(lower[image], upper[image], clamp.low, clamp.high)


def substitute(nodes: tuple[Node, ...], rows: Rows, state: State) -> Rows:
    """Return linear lower bounds before a chain of nodes, given those behind it."""
    for node in reversed(nodes):
        match node:
            case Affine():
                rows = _before_affine(node, rows, state)
            case Clamp():
                rows = _before_clamp(node, rows, state)
            case Sum():
                rows = _before_sum(node, rows, state)
    return rows


def _inner(coefficients: Tensor, values: Tensor) -> Tensor:
    """Return the inner product of each row, (R,)."""
    return (coefficients * values).flatten(1).sum(dim=1)


def rounding_share(operations: int, like: Tensor) -> float:
    """Return a bound on the relative error of so many rounded operations in a row."""
    return SAFETY * operations * torch.finfo(like.dtype).eps / 2


def _rounded(rows: Rows, node: Node, state: State, operations: int, coefficients: Tensor | None = None) -> Tensor:
    """Return the slack with the errors of one node: `operations` roundings relative to its magnitude."""
    if state.magnitudes is None:
        return rows.slack
    sizes = (rows.coefficients if coefficients is None else coefficients).abs() + UNDERFLOW
    share = rounding_share(operations, rows.constant)
    return rows.slack + share * (_inner(sizes, state.magnitudes[node][rows.image]) + rows.constant.abs())


def _before_affine(node: Affine, rows: Rows, state: State) -> Rows:
    operator = node.operator
    coefficients = operator.adjoint(rows.coefficients)
    offset = operator.affine(coefficients.new_zeros(1, *operator.input_shape))
    entries = math.prod(operator.output_shape)
    return replace(
        rows,
        coefficients=coefficients,
        constant=rows.constant + _inner(rows.coefficients, offset),
        slack=_rounded(rows, node, state, operator.products()[1] + entries + 2),
    )


def _before_clamp(node: Clamp, rows: Rows, state: State) -> Rows:
    lines, relative_to = _lines(node, rows.image, state)
    lower = rows.coefficients >= 0
    slopes = torch.where(lower, lines.lower_slope, lines.upper_slope)
    intercepts = torch.where(lower, lines.lower_intercept, lines.upper_intercept)
    slack = rows.slack
    if relative_to is not None:
        share = rounding_share(math.prod(node.shape) + 8, rows.constant)
        slack = slack + share * (_inner(rows.coefficients.abs() + UNDERFLOW, relative_to) + rows.constant.abs())
    return replace(
        rows,
        coefficients=rows.coefficients * slopes,
        constant=rows.constant + _inner(rows.coefficients, intercepts),
        slack=slack,
    )


def _lines(node: Clamp, image: Tensor, state: State) -> tuple[Lines, Tensor | None]:
    """Return the lines of each row, and what their rounding is relative to where it counts, (R, *shape)."""
    shares = state.shares.get(node)
    if shares is not None:
        interval = state.interval(node, image)
        lines = interval.lines(shares)
        return lines, None if state.magnitudes is None else lines.magnitude(interval.size)
    interval = Interval.of(*state.boxes[node], node.low, node.high)
    lines = interval.lines(state.otherwise(interval))  # of images: there are fewer of them than of rows
    return lines.at(image), None if state.magnitudes is None else lines.magnitude(interval.size)[image]


def _before_sum(node: Sum, rows: Rows, state: State) -> Rows:
    branch = substitute(node.branch, rows, state)
    shortcut = substitute(node.shortcut, Rows.of(rows.coefficients, rows.image), state)
    joined = replace(branch, constant=branch.constant + shortcut.constant, slack=branch.slack + shortcut.slack)
    sizes = branch.coefficients.abs() + shortcut.coefficients.abs()
    return replace(
        joined,
        coefficients=branch.coefficients + shortcut.coefficients,
        slack=_rounded(joined, node, state, 4, sizes),
    )


@torch.no_grad()
def magnitudes(nodes: tuple[Node, ...], size: Tensor, boxes: Mapping[Clamp, Box]) -> dict[Node, Tensor]:
    """Return for affine nodes |A| m + |b| and for sums m, where |h| <= m entrywise; h their exact input.

    An error E of a row's coefficients changes its bound by at most |E| m. `size`: (B, *shape), m at the image.
    """
    found: dict[Node, Tensor] = {}
    _extend_magnitudes(nodes, size, boxes, found)
    return found


def _extend_magnitudes(
    nodes: tuple[Node, ...], size: Tensor, boxes: Mapping[Clamp, Box], found: dict[Node, Tensor]
) -> Tensor:
    for node in nodes:
        match node:
            case Affine():
                size = found[node] = node.operator.magnitude(size)
            case Clamp():
                size = Interval.of(*boxes[node], node.low, node.high).size
            case Sum():
                found[node] = size
                branch = _extend_magnitudes(node.branch, size, boxes, found)
                size = branch + _extend_magnitudes(node.shortcut, size, boxes, found)
    return size
