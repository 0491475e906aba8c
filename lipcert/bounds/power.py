"""Power iteration and its acceleration: lower *estimates* of spectral norms, to train on, never to certify with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lipcert.bounds.gram import Grams
from lipcert.bounds.krylov import inverse, krylov_iteration, leading_vector, lengths_of, power_iteration
from lipcert.bounds.linear_map import LinearMap
from lipcert.bounds.norms import Norms
from lipcert.bounds.region import per_image
from lipcert.bounds.warm_start import WarmStart

START_STEPS = 30
"""Power steps that bring a new global singular vector near its limit, so that radii start out honest."""

ALIVE = 1e-3
"""Share of a constant in each start vector, so that no mask leaves it zero."""

DENSE_STEPS = 5
"""Krylov steps of a dense map for each power step of a convolution: cheap there, and needed."""

PRECISIONS = ("auto", "float32", "bfloat16")


class Estimate(NamedTuple):
    """A lower *estimate* of a norm, (B,), and the left vectors v = M u it was found with, (B, *output_shape)."""

    norm: Tensor
    left: Tensor


def estimate_norm(linear_map: LinearMap, vector: Tensor, rows: Tensor | None = None) -> Estimate:
    """Return a lower *estimate* ||diag(rows) M u|| / ||u||, with the norm's gradient v u^T at (u, v).

    `vector`: u, (B, *input_shape), a constant inside the column mask; `rows`: (B, *output_shape) or None.
    """
    image = linear_map.apply(vector)
    left = image.detach() if rows is None else image.detach() * rows
    lengths = lengths_of(left)
    unit = left * inverse(lengths, left.dim()).to(left)
    products = (image * unit).sum(dim=tuple(range(1, image.dim())), dtype=lengths.dtype)
    return Estimate(products * inverse(lengths_of(vector), 1), unit)


def has_fast_bfloat16() -> bool:
    """Whether bfloat16 convolutions run on hardware units here."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.backends.mkldnn.is_available() and bool(capabilities.get("avx512_bf16", False))


class PowerNorms(nn.Module):
    """Norm *estimates* with one warm-started left singular vector a linear map, masked for every image.

    Args:
        iterations: power steps a call. The vectors are buffers: they follow the checkpoint.
        precision: of the products M u and M^T v an image: "float32", "bfloat16", or "auto": the latter where the
            processor has it. Lengths are accumulated in float32; whole norms are always in the model's precision.
        warm_start: what training images keep for their own starts; nothing when None, and memory does not grow
            with the data set.

    Raises:
        ValueError: for parameters out of range.
    """

    def __init__(self, iterations: int = 2, precision: str = "auto", warm_start: WarmStart | None = None) -> None:
        super().__init__()
        if iterations < 1:
            raise ValueError(f"Expected `iterations` >= 1, got {iterations}.")
        if precision not in PRECISIONS:
            raise ValueError(f"Expected `precision` to be one of {list(PRECISIONS)}, got {precision!r}.")
        self.iterations = iterations
        self.warm_start = WarmStart() if warm_start is None else warm_start
        self.grams = Grams()
        self.low_precision = precision == "bfloat16" or (precision == "auto" and has_fast_bfloat16())

    def _vector(self, name: str, linear_map: LinearMap, like: Tensor) -> tuple[str, Tensor]:
        """Return the stored left singular vector (1, *output_shape), found anew at the first call."""
        key = "vector_" + name.replace("%", "%25").replace(".", "%2E")  # buffers cannot have dots
        if not hasattr(self, key):
            start = torch.randn(1, *linear_map.output_shape, dtype=like.dtype, device=like.device)
            with torch.no_grad():
                image = linear_map.apply(power_iteration(linear_map, start, START_STEPS))
            self.register_buffer(key, self._unit(image, start))
        return key, getattr(self, key)

    @staticmethod
    def _unit(vector: Tensor, fallback: Tensor) -> Tensor:
        """Scale (1, *shape) to length 1; keep `fallback` where it died."""
        lengths = lengths_of(vector)
        alive = per_image(lengths > 0, vector.dim())
        return torch.where(alive, vector * inverse(lengths, vector.dim()), fallback)

    def whole(self, name: str, linear_map: LinearMap, like: Tensor) -> Tensor:
        """Return an *estimate* of the norm of the map itself, from below, (1,); arguments as in `Norms.whole`."""
        key, vector = self._vector(name, linear_map, like)
        right = power_iteration(linear_map, vector, self.iterations)
        image = linear_map.apply(right)
        if self.training:
            setattr(self, key, self._unit(image.detach(), vector))
        return lengths_of(image) * inverse(lengths_of(right), 1)

    def of(self, images: Tensor | None) -> Norms:
        """Return the norms of a batch of training images known by number, (B,); None for images of no number."""
        return self if images is None else BatchNorms(self, images)

    def masked(
        self,
        name: str,
        linear_map: LinearMap,
        rows: Tensor | None,
        columns: Tensor | None,
        like: Tensor,
        images: Tensor | None = None,
    ) -> Tensor:
        """Return *estimates* of masked norms, from below, (B,); arguments as in `Norms.masked`.

        `images`: their numbers, (B,), where vectors are kept for them; None for none.
        """
        if linear_map.per_image:
            vector = torch.ones(1, *linear_map.output_shape, dtype=like.dtype, device=like.device)
        else:
            _, vector = self._vector(name, linear_map, like)
            vector = vector + ALIVE * vector.numel() ** -0.5
        vector = vector.expand(like.shape[0], *linear_map.output_shape)
        return self._masked_estimate(name, linear_map, vector, rows, columns, images)

    def _masked_estimate(
        self,
        name: str,
        linear_map: LinearMap,
        shared: Tensor,
        rows: Tensor | None,
        columns: Tensor | None,
        images: Tensor | None,
    ) -> Tensor:
        """Iterate from `shared`, (B, *output_shape), or the images' own vectors; return the norms, (B,).

        Krylov steps for dense maps, on M M^T where that is much smaller than M; power steps for others; in bfloat16
        where that is faster: a relative error of 2^-8 in the vector changes the norm it yields by its square, and
        errors of single products average out.
        """
        dense = len(linear_map.output_shape) == 1
        iterate = krylov_iteration if dense else power_iteration
        steps = DENSE_STEPS * self.iterations if dense else self.iterations
        gram = self.grams.of(name, linear_map, shared, keep=self.training)
        low = self.low_precision and shared.dtype == torch.float32
        dtype = torch.bfloat16 if low else shared.dtype
        rows, columns = (None if mask is None else mask.to(dtype) for mask in (rows, columns))
        start = shared.to(dtype) if rows is None else shared.to(dtype) * rows
        masked = linear_map.restricted(rows, columns)
        with torch.autocast(shared.device.type, torch.bfloat16, enabled=low):
            if images is not None:
                with torch.no_grad():
                    start = self.warm_start.start(name, images, masked, rows, columns, start)
            if gram is not None:
                start = leading_vector(gram, rows, start, steps)
                iterate, steps = power_iteration, 1
            right = iterate(masked, start, steps).to(dtype)
            estimate = estimate_norm(linear_map, right, rows)
        if images is not None and self.training:
            self.warm_start.keep(name, images, estimate.left, right)
        return estimate.norm.to(shared.dtype)


@dataclass(frozen=True)
class BatchNorms:
    """`norms` for a batch of training images whose numbers, (B,), are known: each may start from its own vectors.

    A call may be about the first few images of the batch alone.
    """

    norms: PowerNorms
    images: Tensor

    def whole(self, name: str, linear_map: LinearMap, like: Tensor) -> Tensor:
        return self.norms.whole(name, linear_map, like)

    def masked(
        self, name: str, linear_map: LinearMap, rows: Tensor | None, columns: Tensor | None, like: Tensor
    ) -> Tensor:
        return self.norms.masked(name, linear_map, rows, columns, like, self.images[: like.shape[0]])
