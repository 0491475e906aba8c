"""Reachable sets: a box around a center, and balls that linear maps carry forward.

Between two activations the region is *open*: its terms say by which linear maps, from which closed
sources, the current layer is reached. An activation closes it (`lipcert.bounds.activation_rules`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from lipcert.bounds.economy import FEW
from lipcert.bounds.lazy import Lazy
from lipcert.bounds.linear_map import LinearMap, identity_map
from lipcert.bounds.operators import Operator, scaling
from lipcert.bounds.rounding import Reach, Rounding
from lipcert.nn.selection import maximum, minimum, sum_to_shape

SMALLEST_SQUARE = 1e-30
"""Squared row norms are raised to this, so that their square root has a finite gradient."""

UNDERFLOW = 1e-37
"""The same without a gradient: above what a square may lose to underflow, in float32 as in float64."""


Box = tuple[Tensor, Tensor]
"""Lower and upper ends, (B, *shape) each."""


NO_MASK: Lazy[Tensor | None] = Lazy.of(None)


@dataclass(frozen=True)
class Source:
    """The set at the input or at an activation's output: center, box and Lipschitz constant from the image.

    `box`: lower and upper ends, (B, *shape) each, or None where the ball says all. `lipschitz`: (B,) or (1,); the
    radius of the ball is epsilon times it. `product`: (1,), the same with unmasked norms throughout.
    `mask`: (B, *shape) with entries 0 or 1, or None where everything varies.
    """

    center: Tensor
    box: Lazy[Box] | None
    lipschitz: Tensor
    product: Tensor
    mask: Lazy[Tensor | None] = NO_MASK

    @property
    def varying(self) -> Tensor | None:
        """1 for what varies, 0 for what is constant, (B, *shape); None where everything varies."""
        return self.mask.value

    @property
    def lower(self) -> Tensor | None:
        """Lower ends of the box, (B, *shape), None where the ball says all."""
        return None if self.box is None else self.box.value[0]

    @property
    def upper(self) -> Tensor | None:
        """Upper ends of the box, (B, *shape), None where the ball says all."""
        return None if self.box is None else self.box.value[1]


@dataclass(frozen=True)
class Term:
    """One summand of the open region: `map` applied to the deviation from `source.center`."""

    map: LinearMap
    source: Source

    def after(self, operator: Operator) -> Term:
        return replace(self, map=self.map.after(operator))

    def plus(self, other: Term) -> Term:
        return replace(self, map=self.map.plus(other.map))


T = TypeVar("T", bound=Term)


@dataclass(frozen=True)
class RowNorms:
    """l2 norms of the rows of a linear map: `values` (1 or B, *shape), or None for ones."""

    values: Tensor | None
    orthogonal: bool

    def after(self, operator: Operator, like: Tensor) -> RowNorms | None:
        """Return the row norms after `operator`, None where they do not follow from these.

        `like` gives the dtype and device.
        """
        if not (self.orthogonal or operator.elementwise):
            return None
        orthogonal = self.orthogonal and operator.orthogonal_rows
        if self.values is None:
            norms = operator.row_norms()
            return RowNorms(None if norms is None else norms.to(like), orthogonal)
        squares = operator.squared().apply(self.values.square())
        smallest = SMALLEST_SQUARE if squares.requires_grad else UNDERFLOW
        return RowNorms(squares.clamp_min(smallest).sqrt(), orthogonal)

    def plus(self, other: RowNorms) -> RowNorms | None:
        """Return upper bounds on the row norms of a sum (triangle inequality)."""
        if self.values is None or other.values is None:
            return None
        return RowNorms(self.values + other.values, orthogonal=False)


@dataclass(frozen=True)
class BallTerm(Term):
    """A term that also bounds each neuron: |z_i - z_i(x)| <= row norm_i * radius (eqs 21-23)."""

    rows: RowNorms | None

    def after(self, operator: Operator) -> BallTerm:
        rows = None if self.rows is None else self.rows.after(operator, self.source.center)
        return BallTerm(self.map.after(operator), self.source, rows)

    def plus(self, other: Term) -> BallTerm:
        rows = None
        if isinstance(other, BallTerm) and self.rows is not None and other.rows is not None:
            rows = self.rows.plus(other.rows)
        return BallTerm(self.map.plus(other.map), self.source, rows)

    def deviation(self, epsilon: Tensor) -> Tensor:
        """Return row norms times radius, broadcastable to (B, *shape)."""
        if self.rows is None:
            raise ValueError("The row norms of this map are not known.")
        dimensions = len(self.map.output_shape) + 1
        radius = per_image(epsilon * self.source.lipschitz, dimensions)
        if self.rows.values is None:
            return radius.expand(-1, *self.map.output_shape)
        return self.rows.values.to(radius) * radius


@dataclass(frozen=True)
class Region:
    """All values the layer before it may take when the image moves by at most epsilon.

    Attributes:
        center: (B, *shape), the values at the image itself.
        intersected: lower and upper ends, (B, *shape) each, or None where the ball of `ball_terms` says all.
        ball_terms: sources whose radius bounds the neurons.
        lipschitz_terms: sources whose Lipschitz constants reach the margins; for `global` and `tight` the same.
        epsilon: (B,) or (1,), l2 radius in pixels of [0, 1].
        rounding: how far executed values may be from exact ones; None where nobody asks (training).
        last: the affine layer that `rounding` is just behind, if any.
    """

    center: Tensor
    intersected: Lazy[Box] | None
    ball_terms: tuple[BallTerm, ...]
    lipschitz_terms: tuple[Term, ...]
    epsilon: Tensor
    rounding: Rounding | None = None
    last: Operator | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape without the batch dimension."""
        return tuple(self.center.shape[1:])

    def box(self) -> Box:
        """Return lower and upper bounds of every neuron, (B, *shape)."""
        if self.intersected is not None:
            return self.intersected.value
        deviation = self.deviation()
        return self.center - deviation, self.center + deviation

    def deviation(self) -> Tensor:
        """Return how far the balls let each neuron be from the center, broadcastable to (B, *shape)."""
        return sum_of([term.deviation(self.epsilon) for term in self.ball_terms])

    def size(self) -> Tensor:
        """Return the largest absolute value of every neuron, (B, *shape)."""
        lower, upper = self.box()
        return torch.maximum(lower.abs(), upper.abs())

    def reach(self) -> Reach:
        """Return where the values lie, as rounding asks for it."""
        center = self.center.abs()
        radius = None
        if all(term.map.roundings == (0, 0) for term in self.ball_terms):  # nothing but reshapes since
            radius = sum_of([self.epsilon * term.source.lipschitz for term in self.ball_terms])
        return Reach(center, (self.size() - center).clamp_min(0), radius)

    def rounded(self, rounding: Rounding, share: float) -> Region:
        """Return the region with this `rounding`, its box wider by the analysis's `share` of it."""
        lower, upper = self.box()
        slack = share * rounding.entries
        return replace(self, intersected=Lazy.of((lower - slack, upper + slack)), rounding=rounding, last=None)


def per_image(values: Tensor, dimensions: int) -> Tensor:
    """Reshape (B,) so that it broadcasts against a tensor of `dimensions` dimensions."""
    return values.view(-1, *(1 for _ in range(dimensions - 1)))


def sum_of(tensors: list[Tensor]) -> Tensor:
    """Return the sum of at least one tensor."""
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total


def open_region(source: Source, ball_source: Source, epsilon: Tensor, mask_ball: bool) -> Region:
    """Start a region at an image or an activation's output, with identity maps.

    `mask_ball`: let the ball's row norms know which inputs vary (bound `tight`).
    """
    identity = identity_map(tuple(source.center.shape[1:]))
    rows = RowNorms(ball_source.varying if mask_ball else None, orthogonal=True)
    ball_terms = (BallTerm(identity, ball_source, rows),)
    lipschitz_terms = ball_terms if source is ball_source else (Term(identity, source),)
    return Region(source.center, source.box, ball_terms, lipschitz_terms, epsilon)


def _box(region: Region, operator: Operator, images: slice = slice(None)) -> Box:
    """Return what the box of the first so many images becomes: the interval around W mid + b of |W| half."""
    lower, upper = (bound[images] for bound in region.box())
    middle = operator.affine((upper + lower).mul_(0.5))
    half = operator.absolute().apply((upper - lower).mul_(0.5))
    return middle - half, middle + half


class _ShareOfBall(torch.autograd.Function):
    """One end of an interval inside a ball's: `end` is center + factor * deviation, with the factor held constant."""

    @staticmethod
    def forward(ctx: Any, center: Tensor, deviation: Tensor, end: Tensor) -> Tensor:
        ctx.save_for_backward(center, deviation, end)
        return end

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        center, deviation, end = ctx.saved_tensors
        factor = (end - center) / deviation.clamp_min(torch.finfo(deviation.dtype).tiny)
        return gradient, sum_to_shape(gradient * factor, deviation.shape), None


def _intersection(region: Region, ball: Region, operator: Operator) -> Box:
    """Return box ∩ ball behind an affine layer (eqs 21-22)."""
    (lower, upper), (ball_lower, ball_upper) = _box(region, operator), ball.box()
    return maximum(lower, ball_lower), minimum(upper, ball_upper)


def _intersection_without_graph(region: Region, ball: Region, operator: Operator) -> Box:
    """Return box ∩ ball behind an affine layer; gradients are those of fixed shares of the ball's deviation."""
    deviation = ball.deviation()
    with torch.no_grad():
        lower, upper = _box(region, operator)
        torch.maximum(lower, ball.center - deviation, out=lower)
        torch.minimum(upper, ball.center + deviation, out=upper)
    return _ShareOfBall.apply(ball.center, deviation, lower), _ShareOfBall.apply(ball.center, deviation, upper)


def affine(
    region: Region,
    operator: Operator,
    pays: Callable[[Callable[[], Tensor]], bool] = lambda gain: True,
    box_gradient: bool = True,
) -> Region:
    """Carry a region through an affine layer: box and ball, intersected (eqs 21-23).

    `pays` is asked whether the box is worth its products where the ball is known; it is given how to measure by which
    fraction the box shrinks the intervals of a few images. `box_gradient`: False holds fixed by how much the box cuts
    each interval of the ball, so that no gradient goes through the box pass.
    """
    center = operator.affine(region.center)
    ball_terms = tuple(term.after(operator) for term in region.ball_terms)
    lipschitz_terms = (
        ball_terms
        if region.lipschitz_terms is region.ball_terms
        else tuple(term.after(operator) for term in region.lipschitz_terms)
    )
    ball = Region(center, None, ball_terms, lipschitz_terms, region.epsilon)
    ball_known = all(term.rows is not None for term in ball_terms)
    if not ball_known:
        return replace(ball, intersected=Lazy(lambda: _box(region, operator)))
    if region.intersected is None:
        return ball

    def gain() -> Tensor:
        inner, outer = _box(region, operator, FEW), [bound[FEW] for bound in ball.box()]
        shared = minimum(inner[1], outer[1]) - maximum(inner[0], outer[0])
        return 1 - shared.mean() / (outer[1] - outer[0]).mean()

    def intersected() -> Box:
        optional = operator.products()[0] > 0 and not operator.elementwise
        if optional and not pays(gain):
            return ball.box()
        return (_intersection if box_gradient else _intersection_without_graph)(region, ball, operator)

    return replace(ball, intersected=Lazy(intersected))


def mask_terms(terms: tuple[Term, ...], mask: Tensor) -> tuple[Term, ...]:
    """Multiply every term's output with `mask` (B, *shape)."""
    shape = tuple(mask.shape[1:])
    return tuple(term.after(scaling(shape, mask, per_image=True)) for term in terms)


def add(first: Region, second: Region) -> Region:
    """Return the region of the sum of two values that depend on the same image."""

    def box() -> Box:
        (first_lower, first_upper), (second_lower, second_upper) = first.box(), second.box()
        return first_lower + second_lower, first_upper + second_upper

    ball_terms = _merge(first.ball_terms, second.ball_terms)
    shared = first.lipschitz_terms is first.ball_terms and second.lipschitz_terms is second.ball_terms
    lipschitz_terms = ball_terms if shared else _merge(first.lipschitz_terms, second.lipschitz_terms)
    return Region(
        first.center + second.center,
        Lazy(box),
        ball_terms,
        lipschitz_terms,
        first.epsilon,
    )


def _merge(first: tuple[T, ...], second: tuple[T, ...]) -> tuple[T, ...]:
    """Add terms of the same source, keep the others side by side."""
    merged = list(first)
    for term in second:
        match = next((i for i, other in enumerate(merged) if other.source is term.source), None)
        if match is None:
            merged.append(term)
        else:
            merged[match] = merged[match].plus(term)  # type: ignore[assignment]
    return tuple(merged)
