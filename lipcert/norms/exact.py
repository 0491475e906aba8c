"""Norms of maps with a small side, from the eigenvalues of a Gram matrix: certain, and exact up to rounding."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lipcert.graph.errors import NonFiniteBoundError
from lipcert.graph.linear_map import LinearMap, largest_absolute
from lipcert.norms.bracket import ROUNDING, Bracket, enclose, images_of

EXACT_SIDE, EXACT_SIDE_PER_IMAGE = 128, 64
"""Maps with a side of so few entries, the same for all images or not, get exact norms."""


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
    return enclose(linear_map, rows, columns, lower, torch.minimum(upper, largest))


def is_small(linear_map: LinearMap) -> bool:
    """Return whether `exact_norm` costs less than Lanczos: it applies the map once a unit vector, not once a step."""
    side = min(math.prod(linear_map.input_shape), math.prod(linear_map.output_shape))
    return side <= (EXACT_SIDE_PER_IMAGE if linear_map.per_image else EXACT_SIDE)
