"""M Mᵀ of dense maps with far more inputs than outputs: Krylov steps on it are cheaper than on M by that factor."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lipcert.graph.operators import LinearMap

WIDE = 3
"""Inputs an output from which on the matrix pays."""

LARGEST = 2048
"""Outputs up to which it does."""

EVERY = 20
"""Uses in training after which a matrix is made anew; it serves starts only, which may be a little out of date."""


class Grams:
    """Keeps M Mᵀ by name, the same in all processes that train together.

    What it yields are starts of *estimates*: the last step is always taken on the map and the masks themselves.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Tensor, int]] = {}

    @torch.no_grad()
    def of(self, name: str, linear_map: LinearMap, keep: bool) -> Tensor | None:
        """Return the matrix, (n, n), of a wide dense map with n outputs; None for any other.

        Args:
            name: of the map.
            linear_map: M.
            keep: count this use, and keep the matrix for later ones.
        """
        outputs = math.prod(linear_map.output_shape)
        wide = WIDE * outputs <= math.prod(linear_map.input_shape)
        if linear_map.per_image or len(linear_map.output_shape) != 1 or not wide or outputs > LARGEST:
            return None
        gram, left = self._kept.get(name, (None, 0))
        if gram is None or left == 0:
            gram, left = self._made(linear_map), EVERY
        gram = gram.to(linear_map.origin.device)  # checkpoints are loaded onto the CPU
        if keep:
            self._kept[name] = gram, left - 1
        return gram

    @staticmethod
    def _made(linear_map: LinearMap) -> Tensor:
        with torch.autocast(linear_map.origin.device.type, enabled=False):
            matrix = linear_map.matrix()
            return matrix @ matrix.mT

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, so that a resumed run goes on alike."""
        return {name: {"gram": gram, "left": left} for name, (gram, left) in self._kept.items()}

    def load(self, state: dict[str, Any]) -> None:
        """Take over the matrices of a checkpoint."""
        self._kept = {name: (each["gram"], int(each["left"])) for name, each in state.items()}
