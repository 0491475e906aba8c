"""Norms held between two bounds; those of maps with a small side from the eigenvalues of a Gram matrix, certain."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lipcert.graph.errors import NonFiniteBoundError
from lipcert.graph.operators import LinearMap, largest_absolute

ROUNDING = 1e-9
"""Relative allowance for the float64 arithmetic that is not iterated: roots, products of norms, lengths."""

SMALLEST_NORM = 1e-60
"""No norm is bounded below this: squares of smaller ones would underflow in the recurrence."""

EXACT_SIDE, EXACT_SIDE_PER_IMAGE = 128, 64
"""Maps with a side of so few entries, the same for all images or not, get exact norms."""


class Bracket(NamedTuple):
    """A lower and an upper bound, (B,) each."""

    lower: Tensor
    upper: Tensor


def images_of(linear_map: LinearMap, *masks: Tensor | None) -> int:
    """Return how many norms a map and its masks have, B or 1."""
    return max([linear_map.images, *(mask.shape[0] for mask in masks if mask is not None)])


def _is_zero(linear_map: LinearMap, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    """Return where no path of nonzero weights joins a masked input to a masked output, (B,) bool."""
    images = images_of(linear_map, rows, columns)
    inputs = linear_map.origin.new_ones(images, *linear_map.input_shape) if columns is None else columns
    reached = linear_map.absolute().apply(inputs)
    reached = reached if rows is None else reached * rows
    return reached.flatten(1).amax(dim=1) == 0


def enclose(
    linear_map: LinearMap, rows: Tensor | None, columns: Tensor | None, lower: Tensor, upper: Tensor
) -> Bracket:
    """Return the bracket with zero maps told apart, and no upper bound below `SMALLEST_NORM`."""
    upper = torch.where(_is_zero(linear_map, rows, columns), 0, upper).clamp_min(SMALLEST_NORM)
    return Bracket(torch.minimum(lower, upper), upper)


@torch.no_grad()
def exact_norm(linear_map: LinearMap, rows: Tensor | None = None, columns: Tensor | None = None) -> Bracket:
    """Return a lower and an *upper bound* on the norm of diag(rows) M diag(columns).

    Certain, and exact up to the rounding of its Gram matrix and of the eigenvalues, for which it allows; for maps with
    a small side, see `is_small`.

    Raises:
        NonFiniteBoundError: if the operator yields NaN or infinity.
    """
    on_input = math.prod(linear_map.input_shape) <= math.prod(linear_map.output_shape)
    side = linear_map if on_input else linear_map.transpose()
    inner, outer = (columns, rows) if on_input else (rows, columns)
    size = math.prod(side.input_shape)
    count = images_of(linear_map, rows, columns)
    origin = linear_map.origin
    units = torch.eye(size, dtype=origin.dtype, device=origin.device).view(size, 1, *side.input_shape)
    if side.per_image:
        images = torch.stack([side.apply(unit.expand(count, *side.input_shape)).flatten(1) for unit in units], dim=1)
    else:
        images = side.apply(units[:, 0]).flatten(1)[None]
    masked = images if outer is None else images * outer.flatten(1)[:, None]
    gram = masked @ images.mT
    if inner is not None:
        gram = gram * inner.flatten(1)[:, None] * inner.flatten(1)[:, :, None]
    if not bool(gram.isfinite().all()):
        raise NonFiniteBoundError("a layer's operator yields NaN or infinity; check its weights.")
    largest = largest_absolute(linear_map) * (1 + ROUNDING)
    operations = sum(linear_map.roundings) + images.shape[-1] + 100 * size
    slack = operations * torch.finfo(torch.float64).eps * largest.square()
    eigenvalue = torch.linalg.eigvalsh(gram)[:, -1].clamp_min(0).expand(count)
    lower = (eigenvalue - slack).clamp_min(0).sqrt() * (1 - ROUNDING)
    upper = (eigenvalue + slack).sqrt() * (1 + ROUNDING)
    upper = torch.minimum(upper, largest)
    if rows is None and columns is None:
        upper = torch.where(largest == 0, 0, upper).clamp_min(SMALLEST_NORM)
        return Bracket(torch.minimum(lower, upper), upper)
    return enclose(linear_map, rows, columns, lower, upper)


def is_small(linear_map: LinearMap) -> bool:
    """Return whether `exact_norm` costs less than Lanczos: it applies the map once a unit vector, not once a step."""
    side = min(math.prod(linear_map.input_shape), math.prod(linear_map.output_shape))
    return side <= (EXACT_SIDE_PER_IMAGE if linear_map.per_image else EXACT_SIDE)
