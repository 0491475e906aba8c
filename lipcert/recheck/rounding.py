"""How far a network executed in floating point can be from the same network in real arithmetic.

The usual model: every operation returns the exact result times 1 + d with |d| <= u, or is off by the smallest normal
number, and inputs below that may count as 0; sums may be taken in any order. Source: Higham, Accuracy and Stability of
Numerical Algorithms, chapter 3.

Nothing is rounded where 0 is added. Of terms with moduli that add up to m and with sum s no subset adds up to more than
(m + |s|)/2, since those left out add up to at least (|s| - m)/2 with the sign of s. That bounds what is rounded at each
addition: half the distance of two floats there, u times the power of two below. Over a ball, m and s are those of its
center c, and at most |W| |v - c| and |W (v - c)| more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lipcert.recheck.activations import Activation, Masks
from lipcert.recheck.affine import Affine


@dataclass(frozen=True)
class Arithmetic:
    """`unit`: unit roundoff u; `tiny`: the smallest normal number; `limit`: values above count as overflow."""

    unit: float
    tiny: float
    limit: float


ROOM = 1e-9
"""Relative room for our own arithmetic, where a power of two must not be missed."""

ARITHMETIC = {
    torch.float32: Arithmetic(2.0**-24, 2.0**-126, 1e38),
    torch.float64: Arithmetic(2.0**-53, 2.0**-1022, 1e307),
}


@dataclass(frozen=True, eq=False)
class Error:
    """|executed - real| entrywise, (1, ...), and a bound of its l2 norm; `fresh`: the part of `entries` added last,
    and `fresh_norm` a bound of its l2 norm.

    `stray`: norm of the part at entries that do not vary over the ball. `at_source`: these are errors of the image, of
    an activation's outputs, or of such, moved. `inputs`: errors before the layer that rounded last, if they are at a
    source, and `whole`: the norm of that layer.
    """

    entries: Tensor
    norm: float
    fresh: Tensor
    fresh_norm: float
    stray: float = 0.0
    at_source: bool = False
    inputs: Error | None = None
    whole: float = 0.0


@dataclass(frozen=True, eq=False)
class Ball:
    """Where the inputs of a layer W lie: within `radius` of c in l2.

    `products`: at least |W| |c| + offset, `outputs`: |W c + b|, (1, ...); `norm`: upper bound of the norm of |W|.
    """

    radius: float
    products: Tensor
    outputs: Tensor
    norm: float


def no_error(like: Tensor) -> Error:
    """Return the error of values that are exact."""
    return Error(torch.zeros_like(like), 0.0, torch.zeros_like(like), 0.0, at_source=True)


def gamma(operations: int, unit: float) -> float:
    """Return n u / (1 - n u).

    Raises:
        ArithmeticError: if n u >= 1.
    """
    if operations * unit >= 1:
        raise ArithmeticError(f"{operations} operations are too many for a rounding bound.")
    return operations * unit / (1 - operations * unit)


def after_affine(
    error: Error,
    affine: Affine,
    products: Tensor,
    row_norms: Tensor,
    norm: float,
    arithmetic: Arithmetic,
    inputs: Tensor,
    outputs: Tensor | None = None,
    ball: Ball | None = None,
) -> Error:
    """Return the error behind an affine layer.

    Args:
        error: of its inputs.
        affine: the layer.
        products: at least |W| |v| + offset for its inputs v in real arithmetic, (1, ...).
        row_norms: of its matrix, (1, ...).
        norm: upper bound of the spectral norm of its matrix.
        arithmetic: in which it is executed.
        inputs: the largest moduli of its inputs in real arithmetic, (1, ...).
        outputs: the same of its outputs, where they are to make the bound smaller.
        ball: around its inputs, where it is to make the bound smaller.

    Raises:
        ArithmeticError: where a value may overflow.
    """
    carried = affine.absolute(error.entries)
    if affine.operations == 0:
        return Error(carried, error.norm, torch.zeros_like(carried), 0.0, error.stray, error.at_source)
    carried = torch.minimum(carried, row_norms * error.norm)
    # |W| |error| is at most row norm times l2 norm, too.
    reach = products + carried
    largest = affine.growth * (1 + affine.shift + float((inputs + error.entries).max()))
    if not (bool((reach <= arithmetic.limit).all()) and largest <= arithmetic.limit):
        raise ArithmeticError(f"Layer {affine.name!r} may overflow.")
    lost = arithmetic.tiny * (affine.absolute(torch.ones_like(inputs)) + (2 * affine.operations + 1) * largest)
    additions = None  # the bias is one, the first term is none
    if affine.counted is not None and outputs is not None:
        additions = affine.counted((inputs + error.entries > 0).double())
    subsets = _subsets(reach, reach if outputs is None else outputs + carried)
    most = (subsets + _rounded(reach, subsets, additions, affine, arithmetic)) * (1 + ROOM)
    fresh = _rounded(reach, subsets, additions, affine, arithmetic, most) + lost
    fresh_norm = float(fresh.norm())
    if ball is not None:
        terms = ball.products + carried
        still = _rounded(terms, _subsets(terms, ball.outputs + carried), additions, affine, arithmetic, most) + lost
        whole, by_outputs = torch.tensor(ball.norm), torch.tensor(min(norm, ball.norm))
        highest = None if additions is None else additions.max()
        moving = float(_rounded(whole, _subsets(whole, by_outputs), highest, affine, arithmetic))
        fresh_norm = min(fresh_norm, float(still.norm()) + ball.radius * moving)
    entries = carried + fresh
    length = min(norm * error.norm + fresh_norm, float(entries.norm()))
    source = replace(error, inputs=None) if error.at_source else None
    return Error(entries, length, fresh, fresh_norm, inputs=source, whole=norm)


def _subsets(products: Tensor, outputs: Tensor) -> Tensor:
    """Return what no subset of terms exceeds that are `outputs` in all, and their moduli `products`."""
    return (products + torch.minimum(outputs, products)) / 2


def _rounded(
    products: Tensor,
    subsets: Tensor,
    additions: Tensor | None,
    affine: Affine,
    arithmetic: Arithmetic,
    most: Tensor | None = None,
) -> Tensor:
    """Return what is rounded in sums whose moduli are `products`, and their parts `subsets`.

    `additions`: how many, None where not counted; `most`: what no part as executed exceeds, None where not known.
    """
    if additions is None:
        return gamma(affine.operations, arithmetic.unit) * products
    carry = 1 / (1 - affine.operations * arithmetic.unit)
    sizes = subsets * carry
    if most is not None:
        sizes = torch.minimum(sizes, torch.exp2(torch.frexp(most).exponent.double() - 1))
    return arithmetic.unit * (additions * sizes + products * carry)


def after_addition(first: Error, second: Error, magnitude: Tensor, arithmetic: Arithmetic) -> Error:
    """Return the error of a sum; `magnitude`: the sum of the largest moduli of both terms, (1, ...).

    Raises:
        ArithmeticError: where it may overflow.
    """
    size = magnitude + first.entries + second.entries
    if not bool((size <= arithmetic.limit).all()):
        raise ArithmeticError("A sum of two branches may overflow.")
    fresh = arithmetic.unit * size + 3 * arithmetic.tiny * (size > 0)  # both terms and the sum may count as zero
    entries, fresh_norm = first.entries + second.entries + fresh, float(fresh.norm())
    return Error(entries, min(first.norm + second.norm + fresh_norm, float(entries.norm())), fresh, fresh_norm)


def after_activation(
    error: Error, activation: Activation, lower: Tensor, upper: Tensor, mask: Masks, masked: float | None = None
) -> Error:
    """Return the error behind an activation, exact in floats and 1-Lipschitz.

    Outputs that are constant over the box [lower, upper] of the inputs widened by their error carry none. `masked`:
    the norm of the map from the last source, of what varies there to what `mask` says is needed.
    """
    entries = activation.passed(error.entries)
    fixed = activation(lower - error.entries) == activation(upper + error.entries)
    entries = torch.where(fixed, 0.0, entries)
    norm = min(error.norm, float(entries.norm()))
    if masked is not None and error.inputs is not None and (not activation.paired or bool(mask.needed.all())):
        passed = masked * error.inputs.norm + error.whole * error.inputs.stray
        added = min(error.fresh_norm, float((error.fresh * mask.needed).norm()))
        norm = min(norm, passed + added + float((entries * (1 - mask.needed)).norm()))
    stray = float((entries * (1 - mask.varying)).norm())
    return Error(entries, norm, torch.zeros_like(entries), 0.0, stray, at_source=True)


def after_steep(
    error: Error, activation: Activation, lower: Tensor, upper: Tensor, mask: Masks, arithmetic: Arithmetic
) -> Error:
    """Return the error behind an activation that rounds, or whose Lipschitz constant or masks are its own."""
    entries, norm = activation.passed(error.entries), activation.constant * error.norm
    if activation.operations:
        size = activation.evaluated(lower - error.entries, upper + error.entries)
        largest = 1 + torch.maximum(lower.abs(), upper.abs()) + error.entries
        fresh = gamma(activation.operations, arithmetic.unit) * size + arithmetic.tiny * largest
        entries, norm = entries + fresh, norm + float(fresh.norm())
    stray = float((entries * (1 - mask.varying)).norm())
    return Error(entries, min(norm, float(entries.norm())), torch.zeros_like(entries), 0.0, stray, at_source=True)


def of_differences(error: Error, before: Error, varying: Tensor, gradients: Tensor, label: int) -> Tensor:
    """Return errors of z_j - z_label for every j, (classes,), where one affine layer leads to the logits z.

    Args:
        error: of the logits.
        before: of that layer's inputs; `varying`: which of these vary, (1, ...), ones where that is not known.
        gradients: of z_j - z_label by those inputs, (classes, ...).
        label: a class.
    """
    gradients, fresh = gradients.flatten(1), error.fresh[0]
    lengths, varied = gradients.norm(dim=1), (gradients * varying.flatten()).norm(dim=1)
    passed = torch.minimum(lengths * before.norm, varied * before.norm + lengths * before.stray)
    carried = torch.minimum(gradients.abs() @ before.entries.flatten(), passed)
    return torch.minimum(error.entries[0] + error.entries[0, label], carried + fresh + fresh[label])
