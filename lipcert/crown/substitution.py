"""The backward pass: a linear lower bound at some place becomes one at the image, step after step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipcert.crown.lines import Interval, Lines, Shares
from lipcert.crown.network import Bend, Linear, Network, Sum
from lipcert.graph.operators import Box

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
        boxes: of the input of every clamp, (B, *shape), by its index.
        sizes: of all values, which rounding errors are relative to, see `sizes_of`; None to leave these out.
        shares: slopes of rows, (R, *shape), by the clamp's index.
        otherwise: slopes of images, for clamps without `shares`: the closest lines.
    """

    boxes: Mapping[int, Box]
    sizes: Mapping[int, Tensor] | None = None
    shares: Mapping[int, Shares] = field(default_factory=dict)
    otherwise: Callable[[Interval], Shares] = Interval.closest

    def interval(self, bend: Bend, image: Tensor) -> Interval:
        """Return a clamp over the boxes of `image`, (R,)."""
        lower, upper = self.boxes[bend.index]
        return Interval.of(lower[image], upper[image], bend.low, bend.high)


def substitute(network: Network, rows: Rows, state: State, at: int | None = None) -> Rows:
    """Return linear lower bounds at the image, given those at the value of index `at`, the output when None."""
    at = network.output if at is None else at
    backward = _Backward(state, rows, {at: rows.coefficients})
    for step in reversed(network.steps[:at]):
        if step.index not in backward.coefficients:
            continue
        match step:
            case Linear():
                backward.linear(step)
            case Bend():
                backward.bend(step)
            case Sum():
                backward.sum(step)
    shape = network.shapes[0]
    reached = backward.coefficients.get(0, rows.constant.new_zeros(len(rows.constant), *shape))
    return Rows(reached, backward.constant, backward.slack, rows.image)


def _inner(coefficients: Tensor, values: Tensor) -> Tensor:
    """Return the inner product of each row, (R,)."""
    return (coefficients * values).flatten(1).sum(dim=1)


def rounding_share(operations: int, origin: Tensor) -> float:
    """Return a bound on the relative error of so many rounded operations in a row, in the dtype of `origin`."""
    return SAFETY * operations * torch.finfo(origin.dtype).eps / 2


class _Backward:
    """Rows on their way: coefficients of the values still to be followed, by index, and the constant so far."""

    def __init__(self, state: State, rows: Rows, coefficients: dict[int, Tensor]) -> None:
        self.state, self.image = state, rows.image
        self.coefficients, self.constant, self.slack = coefficients, rows.constant, rows.slack

    def _round(self, operations: int, coefficients: Tensor, sizes: Tensor) -> None:
        """Add the errors of `operations` roundings relative to |coefficients|·sizes, sizes (R, *shape)."""
        share = rounding_share(operations, self.constant)
        self.slack = self.slack + share * (_inner(coefficients.abs() + UNDERFLOW, sizes) + self.constant.abs())

    def _arrive(self, index: int, coefficients: Tensor) -> None:
        """Add coefficients of the value at `index`."""
        if index in self.coefficients:
            other = self.coefficients[index]
            if self.state.sizes is not None:
                self._round(4, other.abs() + coefficients.abs(), self.state.sizes[index][self.image])
            coefficients = other + coefficients
        self.coefficients[index] = coefficients

    def linear(self, step: Linear) -> None:
        operator, coefficients = step.operator, self.coefficients.pop(step.index)
        if self.state.sizes is not None:
            operations = operator.products()[1] + math.prod(operator.output_shape) + 2
            self._round(operations, coefficients, self.state.sizes[step.index][self.image])
        before = operator.adjoint(coefficients)
        offset = operator.affine(before.new_zeros(1, *operator.input_shape))
        self.constant = self.constant + _inner(coefficients, offset)
        self._arrive(step.source, before)

    def bend(self, step: Bend) -> None:
        coefficients = self.coefficients.pop(step.index)
        lines, sizes = self._lines(step)
        if sizes is not None:
            self._round(math.prod(step.shape) + 8, coefficients, sizes)
        lower = coefficients >= 0
        slopes = torch.where(lower, lines.lower_slope, lines.upper_slope)
        intercepts = torch.where(lower, lines.lower_intercept, lines.upper_intercept)
        self.constant = self.constant + _inner(coefficients, intercepts)
        self._arrive(step.source, coefficients * slopes)

    def sum(self, step: Sum) -> None:
        coefficients = self.coefficients.pop(step.index)
        for source in step.sources:
            self._arrive(source, coefficients)

    def _lines(self, step: Bend) -> tuple[Lines, Tensor | None]:
        """Return the lines of each row, and what their rounding is relative to where it counts, (R, *shape)."""
        state, shares = self.state, self.state.shares.get(step.index)
        if shares is not None:
            interval = state.interval(step, self.image)
            lines = interval.lines(shares)
            return lines, None if state.sizes is None else lines.magnitude(interval.size)
        interval = Interval.of(*state.boxes[step.index], step.low, step.high)
        lines = interval.lines(state.otherwise(interval))  # of images: there are fewer of them than of rows
        sizes = None if state.sizes is None else lines.magnitude(interval.size)[self.image]
        return lines.at(self.image), sizes


@torch.no_grad()
def sizes_of(network: Network, image: Tensor, boxes: Mapping[int, Box]) -> dict[int, Tensor]:
    """Return bounds m on absolute values by index, |b| included: |A| m + |b| behind affine maps.

    An error E of a row's coefficients changes its bound by at most |E| m. `image`: (B, *shape), m at the image.
    """
    found = {0: image}
    for step in network.steps:
        match step:
            case Linear():
                found[step.index] = step.operator.magnitude(found[step.source])
            case Bend():
                found[step.index] = Interval.of(*boxes[step.index], step.low, step.high).size
            case Sum():
                found[step.index] = found[step.sources[0]] + found[step.sources[1]]
    return found
