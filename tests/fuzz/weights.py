"""Weights under which bounds are tight, or floats treacherous: matrices by kind."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor


def _normal(rows: int, columns: int, generator: Generator) -> Tensor:
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def gaussian(rows: int, columns: int, generator: Generator) -> Tensor:
    """Independent entries, rows of length 1 or so."""
    return _normal(rows, columns, generator) / columns**0.5


def orthogonal(rows: int, columns: int, generator: Generator) -> Tensor:
    """All singular values 1: products of norms are equalities."""
    side = max(rows, columns)
    return torch.linalg.qr(_normal(side, side, generator)).Q[:rows, :columns]


def aligned(rows: int, columns: int, generator: Generator) -> Tensor:
    """Rank one, every entry positive: the first direction of one layer is the last one of the next."""
    left, right = (torch.ones(side, dtype=torch.float64) for side in (rows, columns))
    return torch.outer(left / left.norm(), right / right.norm())


def permuted(rows: int, columns: int, generator: Generator) -> Tensor:
    """At most one entry a row and a column, 1 or -1: nothing but bounds of rounding says that sums are exact."""
    matrix = torch.zeros(rows, columns, dtype=torch.float64)
    matrix.fill_diagonal_(1)
    signs = torch.randint(2, (rows, 1), generator=generator) * 2 - 1
    return matrix[torch.randperm(rows, generator=generator)] * signs


def duplicated(rows: int, columns: int, generator: Generator) -> Tensor:
    """Every second row is that before it, or its negative."""
    matrix = gaussian(rows, columns, generator)
    matrix[1::2] = matrix[: rows // 2 * 2 : 2] * (1 if torch.rand((), generator=generator) < 0.5 else -1)
    return matrix


def sparse(rows: int, columns: int, generator: Generator) -> Tensor:
    """Rows, columns and entries of zeros in an orthogonal matrix."""
    matrix = orthogonal(rows, columns, generator)
    for shape in ((rows, 1), (1, columns), (rows, columns)):
        matrix = matrix * (torch.rand(shape, generator=generator) < 0.8)
    return matrix


def integers(rows: int, columns: int, generator: Generator) -> Tensor:
    """Small integers: norms of rows, ties and kinks are met exactly."""
    return torch.randint(-2, 3, (rows, columns), generator=generator).double()


def cancelling(rows: int, columns: int, generator: Generator) -> Tensor:
    """Large entries that nearly cancel: sums of float32 lose all but the first digits."""
    matrix = gaussian(rows, columns, generator)
    half = columns // 2
    large = 2.0 ** torch.randint(4, 20, (rows, 1), generator=generator)
    matrix[:, :half] = large * (1 + matrix[:, :half] * 2**-10)
    matrix[:, half : 2 * half] = -matrix[:, :half] + gaussian(rows, half, generator)
    return matrix


def spread(rows: int, columns: int, generator: Generator) -> Tensor:
    """Rows between a millionth and a million times the others."""
    return gaussian(rows, columns, generator) * 10.0 ** torch.randint(-6, 7, (rows, 1), generator=generator)


KINDS: dict[str, Callable[[int, int, Generator], Tensor]] = {
    each.__name__: each
    for each in (orthogonal, aligned, gaussian, permuted, sparse, duplicated, integers, cancelling, spread)
}
"""By name, the plainest first."""

SCALES = (1.0, 0.5, 3.0, 1e-3, 1e3, 1e-12, 1e12, 0.0)
"""What matrices are multiplied with, the plainest first."""


def filled(shape: torch.Size, kind: str, tap: bool, generator: Generator) -> Tensor:
    """Return a weight of this shape, (outputs, inputs, ...); `tap`: a kernel has one entry a channel and no others."""
    rows, columns = shape[0], shape[1:].numel()
    if not tap or len(shape) < 3:
        return KINDS[kind](rows, columns, generator).view(shape)
    weight = torch.zeros(*shape[:2], shape[2:].numel(), dtype=torch.float64)
    place = int(torch.randint(weight.shape[2], (), generator=generator))
    weight[:, :, place] = KINDS[kind](rows, shape[1], generator)
    return weight.view(shape)
