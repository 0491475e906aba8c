"""Norms held between two bounds, zero maps told apart."""

from typing import NamedTuple

import torch
from torch import Tensor

from lipcert.graph.operators import LinearMap

ROUNDING = 1e-9
"""Relative allowance for the float64 arithmetic that is not iterated: roots, products of norms, lengths."""

SMALLEST_NORM = 1e-60
"""No norm is bounded below this: squares of smaller ones would underflow in the recurrence."""


class Bracket(NamedTuple):
    """A lower and an upper bound, (B,) each."""

    lower: Tensor
    upper: Tensor


def _is_zero(linear_map: LinearMap, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    """Return where no path of nonzero weights joins a masked input to a masked output, (B,) bool."""
    images = linear_map.masked_images(rows, columns)
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
