"""One layer's dense matrix, or parts of it, from which exact norms of its masked maps follow."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lipcert.soundness.dense import Matrix, Segment
from lipcert.soundness.submasks import submasks

LARGEST_MATRIX = 4 * 10**7
"""Entries of a layer's matrix that is kept; of larger ones only parts are computed."""

LARGEST_WORK = 2 * 10**10
"""Rows times columns times the smaller of both, of a matrix that is decomposed as one: seconds each."""

PARTS = 12
"""Random parts of a layer that is too large, in turn for its masked norms."""


def _places(mask: Tensor | None, part: Tensor | None) -> NDArray[np.bool_] | slice:
    """Return where `mask` is 1 among the entries of `part`."""
    if mask is None:
        return slice(None)
    flat = mask.flatten().cpu() > 0
    places: NDArray[np.bool_] = (flat if part is None else flat[part.flatten() > 0]).numpy()
    return places


@dataclass(frozen=True)
class Part:
    """A part of a layer: masks (1, *shape) of its outputs and inputs, None for all; the matrix of what they leave."""

    masks: tuple[Tensor | None, Tensor | None]
    matrix: Matrix

    def exact_norm(self, rows: Tensor | None, columns: Tensor | None) -> float:
        """Return the norm of what masks (1, *shape) leave of the part, by its singular values; 0 of nothing."""
        places = [_places(mask, part) for mask, part in zip((rows, columns), self.masks, strict=True)]
        masked = self.matrix[places[0]][:, places[1]]
        return float(np.linalg.svd(masked, compute_uv=False)[0]) if masked.size else 0.0


class Layer:
    """One layer's dense matrix, built once where it is small enough, and random parts of it otherwise, built once each.

    Args:
        segment: the layer.
        side: outputs, and inputs, of a part.
        generator: of the parts.
    """

    def __init__(self, segment: Segment, side: int, generator: np.random.Generator) -> None:
        self.segment, self.side, self.generator = segment, side, generator
        self.outputs, self.inputs = math.prod(segment.output_shape), math.prod(segment.input_shape)
        self.whole = Part((None, None), segment.matrix()) if segment.entries <= LARGEST_MATRIX else None
        self.parts: list[Part] = []

    def part_for(self, rows: Tensor | None, columns: Tensor | None, number: int) -> Part:
        """Return the whole layer where masks (1, *shape) leave little enough to be decomposed, else some part."""
        left = (
            self.outputs if rows is None else int(rows.sum()),
            self.inputs if columns is None else int(columns.sum()),
        )
        if self.whole is not None and math.prod(left) * min(left) <= LARGEST_WORK:
            return self.whole
        if len(self.parts) < PARTS:
            self.parts.append(self._random_part())
        return self.parts[number % len(self.parts)]

    def _random_part(self) -> Part:
        masks = submasks(self.segment.output_shape, self.segment.input_shape, self.side, self.generator)
        rows, columns = (mask.flatten().nonzero()[:, 0] for mask in masks)
        if self.whole is not None:
            return Part(masks, self.whole.matrix[np.ix_(rows.numpy(), columns.numpy())])
        return Part(masks, self.segment.matrix(rows, columns))
