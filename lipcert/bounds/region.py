"""Reachable sets: a box around a center, and balls that linear maps carry forward.

Between two activations the region is *open*: its terms say by which linear maps, from which sources (the image and the
outputs of activations), the present layer is reached. An activation closes it (`lipcert.bounds.activation`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from lipcert.bounds.rounding import Arithmetic, Reach, Rounding, after_affine, input_rounding
from lipcert.graph import Box, LinearMap, Operator
from lipcert.nn.activations import box_in_ball

SMALLEST_SQUARE = 1e-30
"""Squared row norms are raised to this, so that their square root has a finite gradient."""

UNDERFLOW = 1e-37
"""The same without a gradient: above what a square may lose to underflow, in float32 as in float64."""

SMALLEST_CONSTANT = 1e-300
"""Lipschitz constants are raised to this where their product underflows; in float64 only."""


@dataclass(frozen=True)
class Source:
    """The set at the image or at an activation's output.

    Attributes:
        index: of the node.
        center: the value at the image itself, (B, *shape).
        box: lower and upper ends, or None where the ball says all.
        lipschitz: Lipschitz constant from the image, (B,) or (1,); the ball's radius is epsilon times it.
        box_lipschitz: the one with which the ball bounds neurons, (B,) or (1,).
        product: the product of global norms from the image, (1,).
        varying: 1 for what varies, 0 for what is constant, (B, *shape), which local norms leave out; None for ones.
    """

    index: int
    center: Tensor
    box: Box | None
    lipschitz: Tensor
    box_lipschitz: Tensor
    product: Tensor
    varying: Tensor | None = None


@dataclass(frozen=True)
class RowNorms:
    """l2 norms of the rows of a linear map: `values` (1 or B, *shape), or None for ones."""

    values: Tensor | None
    orthogonal: bool

    def after(self, operator: Operator, center: Tensor) -> RowNorms | None:
        """Return the row norms after `operator`, in the dtype of `center`; None where they do not follow from these."""
        if not (self.orthogonal or operator.elementwise):
            return None
        orthogonal = self.orthogonal and operator.orthogonal_rows
        if self.values is None:
            norms = operator.row_norms()
            return RowNorms(None if norms is None else norms.to(center), orthogonal)
        squares = operator.squared().apply(self.values.square())
        smallest = SMALLEST_SQUARE if squares.requires_grad else UNDERFLOW
        return RowNorms(squares.clamp_min(smallest).sqrt(), orthogonal)

    def plus(self, other: RowNorms) -> RowNorms | None:
        """Return upper bounds on the row norms of a sum (triangle inequality)."""
        if self.values is None or other.values is None:
            return None
        return RowNorms(self.values + other.values, orthogonal=False)


@dataclass(frozen=True)
class Term:
    """One summand of the open region: `map` applied to the deviation from `source.center`.

    `rows`: norms of its rows, which bound each neuron: |z_i - z_i(x)| <= row norm_i * radius (eqs 21-23); None where
    they are not known.
    """

    source: Source
    map: LinearMap
    rows: RowNorms | None = None

    def after(self, operator: Operator) -> Term:
        """Return the term behind an affine layer."""
        rows = None if self.rows is None else self.rows.after(operator, self.source.center)
        return Term(self.source, self.map.after(operator), rows)

    def plus(self, other: Term) -> Term:
        """Return the sum of two terms of one source."""
        rows = None if self.rows is None or other.rows is None else self.rows.plus(other.rows)
        return Term(self.source, self.map.plus(other.map), rows)

    def deviation(self, epsilon: Tensor) -> Tensor:
        """Return row norms times radius, broadcastable to (B, *shape).

        Raises:
            ValueError: where the row norms are not known.
        """
        if self.rows is None:
            raise ValueError("The row norms of this map are not known.")
        shape = self.map.output_shape
        radius = (epsilon * self.source.box_lipschitz).view(-1, *(1 for _ in shape))
        if self.rows.values is None:
            return radius.expand(-1, *shape)
        return self.rows.values.to(radius) * radius


Terms = Mapping[tuple[int, bool], Term]
"""Terms by source: index of its node, and whether it is a remainder."""


@dataclass(frozen=True)
class Region:
    """All values a layer may take when the image moves by at most epsilon.

    Attributes:
        center: (B, *shape), the values at the image itself.
        interval: box ∩ ball, or None where the balls of `terms` say all, or boxes are not asked for.
        terms: linear maps from the last activations; their balls bound the neurons.
        merged: linear maps that run across activations and reach the margins (`linear_split`, loop transformation);
            None where there are none.
        epsilon: (B,) or (1,), l2 radius in pixels of [0, 1].
        rounding: how far executed values may be from exact ones; None where nobody asks (training).
        together: center, lower and upper ends of the interval in one tensor, (3 B, *shape), where gradients are asked
            for and pass all three.
    """

    center: Tensor
    interval: Box | None
    terms: Terms
    merged: Terms | None
    epsilon: Tensor
    rounding: Rounding | None = None
    together: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape without the batch dimension."""
        return tuple(self.center.shape[1:])

    def box(self) -> Box:
        """Return lower and upper bounds of every neuron, (B, *shape): the balls' where no interval is known."""
        if self.interval is not None:
            return self.interval
        return self.ball_box()

    def boxed(self) -> Region:
        """Return the region with an interval: that of the balls where none is known."""
        if self.interval is not None:
            return self
        if not torch.is_grad_enabled():
            return replace(self, interval=self.ball_box())
        together, lower, upper = box_in_ball(self.center, self.deviation())
        return replace(self, interval=(lower, upper), together=together)

    @property
    def ball_known(self) -> bool:
        """Whether the row norms of all terms are known, so that balls bound the neurons."""
        return all(term.rows is not None for term in self.terms.values())

    def ball_box(self) -> Box:
        """Return how far the balls alone let each neuron go, (B, *shape)."""
        deviation = self.deviation()
        return self.center - deviation, self.center + deviation

    def deviation(self) -> Tensor:
        """Return how far the balls let each neuron be from the center, broadcastable to (B, *shape)."""
        return sum_of(term.deviation(self.epsilon) for term in self.terms.values())

    def size(self) -> Tensor:
        """Return the largest absolute value of every neuron, (B, *shape)."""
        lower, upper = self.box()
        return torch.maximum(lower.abs(), upper.abs())

    def reach(self) -> Reach:
        """Return where the values lie, as rounding asks for it."""
        center = self.center.abs()
        radius = None
        if all(term.map.roundings == (0, 0) for term in self.terms.values()):  # nothing but permutations since
            radius = sum_of(self.epsilon * term.source.box_lipschitz for term in self.terms.values())
        return Reach(center, (self.size() - center).clamp_min(0), radius)

    def executed(self, rounding: Rounding, arithmetic: Arithmetic) -> Region:
        """Return the region executed in `arithmetic`, with a rounding: its box is wider by the analysis's share."""
        lower, upper = self.box()
        slack = arithmetic.analysis * rounding.entries
        return replace(self, interval=(lower - slack, upper + slack), rounding=rounding)


def sum_of(tensors: Iterable[Tensor]) -> Tensor:
    """Return the sum of at least one tensor."""
    return reduce(torch.add, tensors)


def opened(source: Source, mask_rows: bool = False) -> Term:
    """Return the term that a source starts: the identity.

    `mask_rows`: let row norms leave out its constant entries (bound `tight`).
    """
    shape, rows = tuple(source.center.shape[1:]), RowNorms(source.varying if mask_rows else None, orthogonal=True)
    return Term(source, LinearMap(shape, shape, source.center.new_empty(0)), rows)


def image_region(images: Tensor, radius: Tensor, box: Box | None, arithmetic: Arithmetic | None = None) -> Region:
    """Return the region of the image itself: a ball of `radius` (B,) or (1,), inside a `box` if given."""
    one = torch.ones(1, dtype=images.dtype, device=images.device)
    region = Region(images, box, {(0, False): opened(Source(0, images, box, one, one, one))}, None, radius)
    return region if arithmetic is None else replace(region, rounding=input_rounding(region.size(), arithmetic))


def through_affine(
    region: Region,
    operator: Operator,
    box: bool = True,
    skip: bool = False,
    box_gradients: bool | None = True,
    arithmetic: Arithmetic | None = None,
    norm: Tensor | None = None,
) -> Region:
    """Carry a region through an affine layer: box and ball, intersected (eqs 21-23), and rounding where it has any.

    Args:
        region: before it.
        operator: the layer's.
        box: False where nobody asks for boxes behind the layer.
        skip: take the ball's box alone where that is sound.
        box_gradients: False holds fixed by how much the box cuts each interval of the ball, so that no gradient goes
            through box propagation where a ball is known; None lets none through the box at all.
        arithmetic: what the layer is executed in, where the region has a rounding.
        norm: upper bound on the layer's spectral norm, (1,); None where the region's rounding is 0.
    """
    terms = {key: term.after(operator) for key, term in region.terms.items()}
    merged = None if region.merged is None else {key: term.after(operator) for key, term in region.merged.items()}
    behind = Region(operator.affine(region.center), None, terms, merged, region.epsilon)
    if box:
        with torch.set_grad_enabled(torch.is_grad_enabled() and box_gradients is not None):
            behind = _bounded(region, behind, operator, skip, bool(box_gradients))
    if arithmetic is None or region.rounding is None:
        return behind
    rounding = after_affine(region.rounding, operator, region.reach(), behind.reach(), norm, arithmetic)
    return behind.executed(rounding, arithmetic)


def _bounded(region: Region, behind: Region, operator: Operator, skip: bool, box_gradients: bool) -> Region:
    """Return the region behind an affine layer with its interval, unless the balls say all; see `through_affine`."""
    if not behind.ball_known:
        return replace(behind, interval=operator.box(*region.box()))
    if region.interval is None:
        return behind
    if skip and not operator.elementwise:
        return behind.boxed()
    center, deviation = behind.center, behind.deviation()
    if torch.is_grad_enabled():
        with torch.set_grad_enabled(box_gradients):
            middle, half = operator.interval(*region.box())
        together, lower, upper = box_in_ball(center, deviation, middle, half, fixed=not box_gradients)
        return replace(behind, interval=(lower, upper), together=together)
    lower, upper = operator.box(*region.box())
    torch.maximum(lower, center - deviation, out=lower)
    torch.minimum(upper, center + deviation, out=upper)
    return replace(behind, interval=(lower, upper))


def added(first: Region, second: Region, box: bool = True, arithmetic: Arithmetic | None = None) -> Region:
    """Return the region of the sum of two values that depend on the same image; `box`, `arithmetic`: as
    in `through_affine`."""
    interval = None
    if box:
        (first_lower, first_upper), (second_lower, second_upper) = first.box(), second.box()
        interval = first_lower + second_lower, first_upper + second_upper
    merged = None
    if first.merged is not None or second.merged is not None:
        merged = _sum_terms(
            first.terms if first.merged is None else first.merged,
            second.terms if second.merged is None else second.merged,
        )
    terms = _sum_terms(first.terms, second.terms)
    total = Region(first.center + second.center, interval, terms, merged, first.epsilon)
    if arithmetic is None or first.rounding is None or second.rounding is None:
        return total
    size = first.size() + first.rounding.entries + second.size() + second.rounding.entries
    return total.executed(first.rounding.plus(second.rounding, size, arithmetic), arithmetic)


def _sum_terms(first: Terms, second: Terms) -> Terms:
    """Add terms of the same source, keep the others side by side."""
    total = dict(first)
    for key, term in second.items():
        total[key] = total[key].plus(term) if key in total else term
    return total
