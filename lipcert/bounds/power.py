"""Power iteration: lower *estimates* of spectral norms, to train on, never to certify with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lipcert.bounds.linear_map import LinearMap
from lipcert.bounds.region import per_image

START_STEPS = 30
"""Power steps that bring a new global singular vector near its limit, so that radii start out honest."""


def normalize_each(vectors: Tensor, fallback: Tensor | None = None) -> Tensor:
    """Scale every vector of a batch (B, *shape) to length 1; dead ones restart at `fallback`."""
    lengths = per_image(torch.linalg.vector_norm(vectors.flatten(1), dim=1), vectors.dim())
    alive = (lengths > 0) & lengths.isfinite()
    normalized = vectors / torch.where(alive, lengths, 1)
    return normalized if fallback is None else torch.where(alive, normalized, fallback)


@torch.no_grad()
def power_iteration(linear_map: LinearMap, start: Tensor, steps: int) -> Tensor:
    """Return unit vectors near the first right singular vectors, (B, *input_shape), after `steps` steps.

    `start`: (B, *input_shape), already inside the column mask of `linear_map`.
    """
    vector = normalize_each(start)
    for _ in range(steps):
        vector = normalize_each(linear_map.adjoint(linear_map.apply(vector)), fallback=vector)
    return vector


def estimate_norm(linear_map: LinearMap, vector: Tensor) -> Tensor:
    """Return a lower *estimate* ||M u|| of the norm, (B,), with the gradient v uᵀ of the norm at (u, v)."""
    return torch.linalg.vector_norm(linear_map.apply(vector).flatten(1), dim=1)


class PowerNorms(nn.Module):
    """Norm *estimates* with one warm-started singular vector a linear map, masked for every image.

    Args:
        iterations: power steps a call. The vectors are buffers: they follow the checkpoint.

    Memory does not grow with the data set.
    """

    def __init__(self, iterations: int = 2) -> None:
        super().__init__()
        if iterations < 1:
            raise ValueError(f"Expected `iterations` >= 1, got {iterations}.")
        self.iterations = iterations

    def _vector(self, name: str, linear_map: LinearMap, like: Tensor) -> tuple[str, Tensor]:
        key = "vector_" + name.replace(".", "_").replace("/", "_")
        if not hasattr(self, key):
            start = torch.randn(1, *linear_map.input_shape, dtype=like.dtype, device=like.device)
            self.register_buffer(key, power_iteration(linear_map, start, START_STEPS))
        return key, getattr(self, key)

    def whole(self, name: str, linear_map: LinearMap, like: Tensor) -> Tensor:
        key, vector = self._vector(name, linear_map, like)
        if self.training:
            vector = power_iteration(linear_map, vector, self.iterations)
            setattr(self, key, vector)
        return estimate_norm(linear_map, vector)

    def masked(
        self,
        name: str,
        linear_map: LinearMap,
        rows: Tensor | None,
        columns: Tensor | None,
        like: Tensor,
    ) -> Tensor:
        if linear_map.per_image:
            start = torch.ones(like.shape[0], *linear_map.input_shape, dtype=like.dtype, device=like.device)
        else:
            _, vector = self._vector(name, linear_map, like)
            start = vector.expand(like.shape[0], *linear_map.input_shape)
        masked = linear_map.masked(rows, columns)
        if columns is not None:
            start = normalize_each(start * columns, fallback=columns)
        return estimate_norm(masked, power_iteration(masked, start, self.iterations))
