"""What the bounds ask of a norm algorithm."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from lipcert.bounds.linear_map import LinearMap


class Norms(Protocol):
    """Spectral norms of the linear maps between activations.

    `name` identifies the place in the model; implementations may keep a warm start or a cached value under it.
    """

    def whole(self, name: str, linear_map: LinearMap, like: Tensor) -> Tensor:
        """Return the norm of the map itself, shape (1,). `like` gives the dtype and device."""
        ...

    def masked(
        self,
        name: str,
        linear_map: LinearMap,
        rows: Tensor | None,
        columns: Tensor | None,
        like: Tensor,
    ) -> Tensor:
        """Return one norm an image of diag(rows) M diag(columns), shape (B,). `like`: (B, ...)."""
        ...
