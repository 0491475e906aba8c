"""How far a network executed in floating point can be from the one its weights describe.

An executed affine layer returns W h + b with an error of at most γ(n) (|W||h| + |b|) + (2n + 1) tiny (1 + max |h|) +
tiny |W|1 an entry, in any order of summation, fused or not: γ(n) = n u / (1 - n u), u the unit roundoff, n the rounded
operations of one entry, tiny the smallest normal number (products, weights and inputs below it may be flushed to zero).
Images are taken to have been converted to the precision of the weights. It does not hold for TF32, Winograd or FFT
convolutions. Source: Higham, Accuracy and Stability of Numerical Algorithms, section 3.1.

Two things make this smaller where an entry z is one sum of products and a bias. Sums with zeros are exact: n counts the
terms that may differ from 0, and 1. A partial sum is a sum of some of the terms, so that it lies between that of all
negative ones, (z - s)/2, and that of all positive ones, (z + s)/2, s the sum of absolute values |W||h| + |b|: each of
n - 1 additions has an error of at most u (s + |z|)/2, and all products together of u s, over 1 - n u for what the
partial sums carry themselves. Numbers between two powers of two are equally far apart: (s + |z|)/2, and what the sums
carry, count by the power below. Source: Rump, Ogita, Oishi, Accurate Floating-Point Summation I, section 2.

Of all these errors in l2, those that the center would have are a vector that is known, and what h - center adds is a
multiple of |W| |h - center| and |W (h - center)|: no longer than the norm of |W|, or of W, times the radius.

Errors of earlier layers pass through |W| entry by entry, or in l2 through the spectral norm of W, or of what a local
bound leaves of it: errors at values that vary through the masked norm, others, few and small, through the whole one.
Most activations select among exact numbers: they add no error and, being 1-Lipschitz, enlarge none.

The same recursion covers the float64 arithmetic of the bounds themselves: their error is a fixed share of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lipcert.graph.operators import Magnitudes, Operator, Shape

ANALYSIS_OPERATIONS = 2**14
"""Roundings of float64 that the bounds take, at most, where the network takes one of its own.

Box, center and offsets take some ten; |W||m| over a box may exceed what rounding is relative to here by the root of the
fan-in; an adjoint has the fan-out's operations; remainders use a center once for every layer behind.
"""

HEADROOM = 8
"""Values must stay below the largest number over this: sums of a few of them still fit."""


def l2_norm(vectors: Tensor) -> Tensor:
    """Return the l2 norm over the last dimension, right where squares would underflow, infinite where an entry is."""
    largest = vectors.detach().abs().amax(dim=-1, keepdim=True)
    unit = torch.where((largest > 0) & largest.isfinite(), largest, 1)
    return unit[..., 0] * torch.linalg.vector_norm(vectors / unit, dim=-1)


@dataclass(frozen=True)
class Arithmetic:
    """The floating point arithmetic a network is executed in.

    Attributes:
        unit: unit roundoff u of the network plus that of the analysis.
        analysis: the analysis's share of it.
        tiny: smallest normal number.
        largest: largest finite number.
        input_unit: u where images have to be rounded first.
    """

    unit: float
    analysis: float
    tiny: float
    largest: float
    input_unit: float = 0.0

    @classmethod
    def of(cls, dtype: torch.dtype, images: torch.dtype) -> Arithmetic:
        """Return the arithmetic of a network in `dtype`, float32 or float64, fed with images in another."""
        executed, analysis = torch.finfo(dtype), ANALYSIS_OPERATIONS * torch.finfo(torch.float64).eps / 2
        unit = executed.eps / 2 + analysis
        rounded = torch.finfo(images).eps < executed.eps
        return cls(unit, analysis / unit, executed.tiny, executed.max, executed.eps / 2 if rounded else 0.0)

    @property
    def executed_unit(self) -> float:
        """Unit roundoff of the network alone, not above its share of `unit`."""
        return self.unit * (1 - self.analysis)

    def gamma(self, operations: Tensor) -> Tensor:
        """Return γ(n) = n u / (1 - n u) of n `operations`, infinite where n u reaches 1."""
        return operations * self.share(operations)

    def share(self, operations: Tensor) -> Tensor:
        """Return u / (1 - n u) of n `operations`, infinite where n u reaches 1."""
        relative = operations * self.unit
        return torch.where(relative < 1, self.unit / (1 - relative), torch.inf)


class Reach(NamedTuple):
    """Where the inputs of an affine layer lie: |h| <= |center| + deviation entrywise, ‖h - center‖ <= radius.

    `center`, `deviation`: (B, *shape), both >= 0; `radius`: (B,) or (1,), None where it is not known.
    """

    center: Tensor
    deviation: Tensor
    radius: Tensor | None


@dataclass(frozen=True)
class Rounding:
    """Bounds on executed minus exact values of one layer.

    Attributes:
        entries: of each value, (B, *shape).
        length: of all in l2, (B,).
        stray: length of those errors that are at values which do not vary, (B,); None where none are told apart.
        fresh: the part of `entries` that the last affine layer adds to what its inputs bring along; None where there is
            no such layer.
        fresh_length: length of that part, (B,), at most its own l2 norm.
        inherited: the error of those inputs.
        layer: that affine layer, if nothing was moved since.
    """

    entries: Tensor
    length: Tensor
    stray: Tensor | None = None
    fresh: Tensor | None = None
    fresh_length: Tensor | None = None
    inherited: Rounding | None = None
    layer: Operator | None = None

    @classmethod
    def of(cls, entries: Tensor, length: Tensor | None = None) -> Rounding:
        """Return the bound with the smaller of `length` and the entries' own l2 norm."""
        own = l2_norm(entries.flatten(1))
        return cls(entries, own if length is None else torch.minimum(length, own))

    def plus(self, other: Rounding, size: Tensor, arithmetic: Arithmetic) -> Rounding:
        """Return the bound for a sum of two values.

        Args:
            other: bound for the second.
            size: the sum of their sizes, errors included, (B, *shape).
            arithmetic: what the sum is executed in.
        """
        vanished = 3 * arithmetic.tiny * (size > 0)  # either summand, or the sum, may be flushed to zero
        fresh = arithmetic.gamma(torch.ones_like(size[:1])) * size + vanished
        fresh = torch.where(size < arithmetic.largest / HEADROOM, fresh, torch.inf)
        length = self.length + other.length + l2_norm(fresh.flatten(1))
        return Rounding.of(self.entries + other.entries + fresh, length)


def input_rounding(size: Tensor, arithmetic: Arithmetic) -> Rounding:
    """Return the error of images that the network's own precision rounds; |pixels| <= `size`, (B, ...)."""
    coarser = arithmetic.input_unit > 0
    return Rounding.of(arithmetic.input_unit * size + (arithmetic.tiny if coarser else 0))


def after_activation(
    rounding: Rounding,
    entries: Tensor,
    varying: Tensor | None = None,
    norms: tuple[Tensor, Tensor] | None = None,
    rows: Tensor | None = None,
) -> Rounding:
    """Return the error behind an activation.

    Args:
        rounding: the error before it.
        entries: bounds on that of each output, (B, *shape).
        varying: 1 for outputs that vary, 0 for others, (B, *shape); None for ones.
        norms: upper bounds on the norm of the one affine layer since the last activation, (B,) or (1,): masked by what
            varies there and by `rows`, and not masked; None where several layers lie between, or sums.
        rows: 1 for outputs that `norms` are about, (B, *shape); None for ones. Others have their `entries`.
    """
    length = rounding.length
    fresh, fresh_length, before = rounding.fresh, rounding.fresh_length, rounding.inherited
    if norms is not None and fresh is not None and fresh_length is not None and before is not None:
        masked, whole = norms
        stray = torch.zeros_like(before.length) if before.stray is None else before.stray
        own = masked * before.length + whole * stray
        if rows is None:
            own = own + fresh_length
        else:
            own = own + torch.minimum(fresh_length, l2_norm((fresh * rows).flatten(1)))
            own = own + l2_norm((entries * (1 - rows)).flatten(1))
        length = torch.minimum(length, own)
    behind = Rounding.of(entries, length)
    return behind if varying is None else replace(behind, stray=l2_norm((entries * (1 - varying)).flatten(1)))


def after_steep(
    rounding: Rounding,
    entries: Tensor,
    lipschitz: Tensor | float | None,
    evaluated: Tensor | None,
    varying: Tensor | None,
) -> Rounding:
    """Return the error behind an activation that may enlarge errors, or add to them.

    Args:
        rounding: the error before it.
        entries: bounds on what that becomes at each output, (B, *shape).
        lipschitz: constant of the activation, None for 1.
        evaluated: what its own evaluation adds, (B, *shape), None for nothing.
        varying: 1 for outputs that vary, 0 for others, (B, *shape); None for ones.
    """
    length = rounding.length if lipschitz is None else lipschitz * rounding.length
    if evaluated is not None:
        entries, length = entries + evaluated, length + l2_norm(evaluated.flatten(1))
    behind = Rounding.of(entries, length)
    return behind if varying is None else replace(behind, stray=l2_norm((entries * (1 - varying)).flatten(1)))


def _scaled_rows(rows: Tensor | None, lengths: Tensor, shape: Shape) -> Tensor:
    """Return row norms times one length an image, broadcastable to (B, *shape)."""
    lengths = lengths.view(-1, *(1 for _ in shape))
    return lengths if rows is None else rows.to(lengths) * lengths


def after_affine(
    rounding: Rounding, operator: Operator, before: Reach, behind: Reach, norm: Tensor | None, arithmetic: Arithmetic
) -> Rounding:
    """Return the error behind an affine layer.

    Args:
        rounding: the error before it.
        before, behind: where its exact inputs and outputs lie.
        norm: upper bound on the layer's spectral norm, (1,); None for no inherited error.
        arithmetic: what the network is executed in.

    Entries are infinite where an intermediate result could overflow.
    """
    sizes = operator.magnitudes(before.center, before.deviation, rounding.entries)
    if sizes is None:
        fresh = None if rounding.fresh is None else operator.apply(rounding.fresh)
        return replace(rounding, entries=operator.apply(rounding.entries), fresh=fresh, layer=None)
    shape, moved = operator.output_shape, sizes.deviation
    if before.radius is not None:
        moved = torch.minimum(moved, _scaled_rows(sizes.rows, before.radius, shape))
    magnitude = sizes.center + moved
    exact = (sizes.inputs == 0) & (sizes.bias == 0)  # nothing but zeros is added up
    vanished = (sizes.inputs + (2 * sizes.operations + 1) * sizes.largest) * arithmetic.tiny  # below `tiny` may be 0
    vanished = torch.where(torch.maximum(magnitude, sizes.largest) < arithmetic.largest / HEADROOM, vanished, torch.inf)

    def partial(magnitude: Tensor, outputs: Tensor) -> Tensor:
        """Return what no partial sum of terms exceeds that add up to `outputs`, and their sizes to `magnitude`."""
        return (magnitude + torch.minimum(outputs + sizes.errors, magnitude)) / 2

    def rounded(magnitude: Tensor, partial: Tensor, power: Tensor | None = None) -> Tensor:
        """Return the error of sums; `power`: of two, what no partial sum as executed reaches twice."""
        if not sizes.one_sum:
            return arithmetic.gamma(sizes.operations) * magnitude
        errors = arithmetic.share(sizes.operations) * ((sizes.operations - 1) * partial + magnitude)
        if power is None:
            return errors
        spared = arithmetic.executed_unit * (sizes.operations - 1) * (partial - power).clamp_min(0)
        return torch.where(spared.isfinite(), errors - spared, errors)

    largest = partial(magnitude, behind.center + behind.deviation)
    power = _power_below(largest + rounded(magnitude, largest))
    fresh = torch.where(exact, 0, rounded(magnitude, largest, power) + vanished)
    length = l2_norm(fresh.flatten(1))
    if before.radius is not None:
        still = rounded(sizes.center, partial(sizes.center, behind.center), power)
        still = l2_norm(torch.where(exact, 0, still + vanished).flatten(1))
        length = torch.minimum(length, still + before.radius * _rounded_norm(operator, sizes, norm, arithmetic))
    source = replace(rounding, fresh=None, fresh_length=None, inherited=None, layer=None)
    total = Rounding.of(fresh, length)
    if norm is not None:
        through = torch.minimum(sizes.errors, _scaled_rows(sizes.rows, rounding.length, shape))
        total = Rounding.of(through + fresh, norm * rounding.length + length)
    return replace(total, fresh=fresh, fresh_length=length, inherited=source, layer=operator)


def _power_below(values: Tensor) -> Tensor:
    """Return the largest power of two that does not exceed each value."""
    _, exponents = torch.frexp(values)
    return torch.ldexp(torch.full_like(values, 0.5), exponents)


def _rounded_norm(operator: Operator, sizes: Magnitudes, norm: Tensor | None, arithmetic: Arithmetic) -> Tensor:
    """Return how much longer the errors of sums become, at most, for inputs that move by 1 in l2, (B,)."""
    operations = sizes.operations.expand(len(sizes.center), *operator.output_shape).flatten(1).amax(dim=1)
    whole = operator.absolute_norm.to(operations)
    if not sizes.one_sum:
        return arithmetic.gamma(operations) * whole
    outputs = whole if norm is None else torch.minimum(norm, whole)
    return arithmetic.share(operations) * ((operations - 1) * (whole + outputs) / 2 + whole)


def of_differences(rounding: Rounding, labels: Tensor, varying: Tensor | None) -> Tensor:
    """Return errors of executed z_j - z_y, (B, K), 0 for the label: earlier ones pass through row j minus row y.

    Args:
        rounding: of the logits z.
        labels: y, (B,).
        varying: 1 for inputs of the last affine layer that vary, (B, ...); None where that is not known.
    """
    own, before = labels.unsqueeze(1), rounding.inherited
    errors = rounding.entries + rounding.entries.gather(1, own)
    if rounding.layer is not None and rounding.fresh is not None and before is not None:
        units = torch.eye(errors.shape[1], dtype=errors.dtype, device=errors.device)
        matrix = rounding.layer.adjoint(units).flatten(1)
        differences = matrix - matrix[labels].unsqueeze(1)
        lengths = torch.linalg.vector_norm(differences, dim=-1)
        passed = lengths * before.length.unsqueeze(1)
        if varying is not None and before.stray is not None:
            masked = torch.linalg.vector_norm(differences * varying.flatten(1).unsqueeze(1), dim=-1)
            passed = torch.minimum(passed, masked * before.length.unsqueeze(1) + lengths * before.stray.unsqueeze(1))
        passed = torch.minimum(passed, (differences.abs() @ before.entries.flatten(1).unsqueeze(2))[:, :, 0])
        errors = torch.minimum(errors, rounding.fresh + rounding.fresh.gather(1, own) + passed)
    return errors.scatter(1, own, 0.0)
