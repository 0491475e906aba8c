"""Power iteration: lower *estimates* of spectral norms, to train on, never to certify with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lipcert.bounds.linear_map import LinearMap
from lipcert.bounds.region import per_image

START_STEPS = 30
"""Power steps that bring a new global singular vector near its limit, so that radii start out honest."""


def _lengths(vectors: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vectors.flatten(1), dim=1)


def _inverse(lengths: Tensor, dimensions: int) -> Tensor:
    """Return 1 / length, 0 for a dead vector, shaped to broadcast against (B, *shape)."""
    alive = (lengths > 0) & lengths.isfinite()
    return per_image(torch.where(alive, 1 / lengths, 0), dimensions)


@torch.no_grad()
def power_iteration(linear_map: LinearMap, start: Tensor, steps: int) -> Tensor:
    """Return vectors u = M^T v near the first right singular vectors, (B, *input_shape), lengths arbitrary.

    `start`: (B, *output_shape), near a left singular vector v and inside the row mask of `linear_map`. A step is
    one application of M^T and one of M; the last application of M is left to `estimate_norm`.
    """
    vector = linear_map.adjoint(start)
    for _ in range(steps - 1):
        image = linear_map.apply(vector)
        vector = linear_map.adjoint(image * _inverse(_lengths(image), image.dim()))
    return vector


def estimate_norm(linear_map: LinearMap, vector: Tensor) -> Tensor:
    """Return a lower *estimate* ||M u|| / ||u|| of the norm, (B,), with the norm's gradient v u^T at (u, v).

    `vector`: u, (B, *input_shape), taken as a constant.
    """
    return _lengths(linear_map.apply(vector)) * _inverse(_lengths(vector), 1)


def _masked_start(vector: Tensor, mask: Tensor) -> Tensor:
    """Return `vector` (1, *shape) inside the mask (B, *shape); where nothing of it is left, the mask itself."""
    masked = vector * mask
    empty = per_image(_lengths(masked) == 0, masked.dim())
    return torch.where(empty, mask, masked)


PRECISIONS = ("auto", "float32", "bfloat16")


def has_fast_bfloat16() -> bool:
    """Whether bfloat16 convolutions run on hardware units here."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return bool(torch.backends.mkldnn.is_available() and getattr(torch.cpu, "get_capabilities", dict)().get("avx512_bf16", False))


class PowerNorms(nn.Module):
    """Norm *estimates* with one warm-started left singular vector a linear map, masked for every image.

    Args:
        iterations: power steps a call. The vectors are buffers: they follow the checkpoint.
        precision: of the steps an image: "float32", "bfloat16", or "auto": the latter where the processor has it.
            The norm itself and its gradient are always computed in the model's own precision.

    Memory does not grow with the data set.
    """

    def __init__(self, iterations: int = 2, precision: str = "auto") -> None:
        super().__init__()
        if iterations < 1:
            raise ValueError(f"Expected `iterations` >= 1, got {iterations}.")
        if precision not in PRECISIONS:
            raise ValueError(f"Expected `precision` to be one of {list(PRECISIONS)}, got {precision!r}.")
        self.iterations = iterations
        self.bfloat16 = precision == "bfloat16" or (precision == "auto" and has_fast_bfloat16())

    def _vector(self, name: str, linear_map: LinearMap, like: Tensor) -> tuple[str, Tensor]:
        """Return the stored left singular vector (1, *output_shape), found anew at the first call."""
        key = "vector_" + name.replace(".", "_").replace("/", "_")
        if not hasattr(self, key):
            start = torch.randn(1, *linear_map.output_shape, dtype=like.dtype, device=like.device)
            self.register_buffer(key, self._refine(linear_map, start, START_STEPS))
        return key, getattr(self, key)

    @staticmethod
    @torch.no_grad()
    def _refine(linear_map: LinearMap, vector: Tensor, steps: int) -> Tensor:
        """Return the unit left singular vector after `steps` steps; one that died restarts at a constant."""
        image = linear_map.apply(power_iteration(linear_map, vector, steps))
        lengths = _lengths(image)
        constant = torch.full_like(image, image.numel() ** -0.5)
        return torch.where(per_image(lengths > 0, image.dim()), image * _inverse(lengths, image.dim()), constant)

    def whole(self, name: str, linear_map: LinearMap, like: Tensor) -> Tensor:
        key, vector = self._vector(name, linear_map, like)
        right = power_iteration(linear_map, vector, self.iterations)
        image = linear_map.apply(right)
        lengths = _lengths(image)
        if self.training:
            unit = image.detach() * _inverse(lengths.detach(), image.dim())
            alive = per_image(lengths.detach() > 0, image.dim())
            setattr(self, key, torch.where(alive, unit, vector))
        return lengths * _inverse(_lengths(right), 1)

    def masked(
        self,
        name: str,
        linear_map: LinearMap,
        rows: Tensor | None,
        columns: Tensor | None,
        like: Tensor,
    ) -> Tensor:
        if linear_map.per_image:
            vector = torch.ones(1, *linear_map.output_shape, dtype=like.dtype, device=like.device)
        else:
            _, vector = self._vector(name, linear_map, like)
        start = vector.expand(like.shape[0], *linear_map.output_shape) if rows is None else _masked_start(vector, rows)
        right = self._iterate(linear_map, start, rows, columns)
        return estimate_norm(linear_map.masked(rows, columns), right)

    def _iterate(
        self, linear_map: LinearMap, start: Tensor, rows: Tensor | None, columns: Tensor | None
    ) -> Tensor:
        """Iterate towards the right singular vectors, in bfloat16 where that is faster.

        A relative error of 2^-8 in the vector changes the norm it yields by its square.
        """
        if not self.bfloat16 or start.dtype != torch.float32:
            return power_iteration(linear_map.masked(rows, columns), start, self.iterations)
        low_rows, low_columns = (None if mask is None else mask.bfloat16() for mask in (rows, columns))
        with torch.autocast(start.device.type, torch.bfloat16):
            low = power_iteration(linear_map.masked(low_rows, low_columns), start.bfloat16(), self.iterations)
        return low.to(start.dtype)
