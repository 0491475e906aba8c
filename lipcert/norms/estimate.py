"""Power iteration and its acceleration: lower *estimates* of spectral norms, to train on, never to certify with."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from lipcert.graph.operators import LinearMap
from lipcert.norms.krylov import (
    ALIVE,
    estimate_norm,
    krylov_iteration,
    leading_vector,
    power_iteration,
    power_iteration_from_right,
    shared_right_vector,
    unit_vector,
)
from lipcert.norms.protocol import MapKey

START_STEPS = 30
"""Power steps that bring a new global singular vector near its limit, so that radii start out honest."""

DENSE_STEPS = 3
"""Krylov steps of a dense map for each power step of a convolution: cheap there, and needed."""

MEMORY = 0.9
"""What the typical vector of a dense map keeps of itself when another image's is added."""

WIDE = 3
"""Inputs an output of a dense map from which on Krylov steps on M Mᵀ are cheaper than on M."""

LARGEST = 2048
"""Outputs up to which they are."""

EVERY = 20
"""Uses in training after which M Mᵀ is made anew; it serves starts only, which may be a little out of date."""

PRECISIONS = ("auto", "float32", "bfloat16")


def has_fast_bfloat16() -> bool:
    """Whether bfloat16 convolutions run on hardware units here."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.backends.mkldnn.is_available() and bool(capabilities.get("avx512_bf16", False))


def _buffer_name(name: str) -> str:
    """Return a layer's name as a buffer's, which cannot have dots."""
    return name.replace("%", "%25").replace(".", "%2E")


class Grams:
    """Keeps M Mᵀ of wide dense maps by name, the same in all processes that train together.

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


class PowerNorms(nn.Module):
    """Norm *estimates* with warm-started left singular vectors of each linear map, masked for every image.

    One is that of the map itself. Masks take part of a dense map away, and its singular vectors then have little in
    common with the map's own, but much with each other: there images start from a typical one, an average over the
    first images of recent batches.

    Args:
        iterations: power steps a call. The vectors are buffers: they follow the checkpoint.
        precision: of the products M u and M^T v an image: "float32", "bfloat16", or "auto": the latter where the
            processor has it. Lengths are accumulated in float32; global norms are always in the model's precision.

    Raises:
        ValueError: for parameters out of range.
    """

    def __init__(self, iterations: int = 2, precision: str = "auto") -> None:
        super().__init__()
        if iterations < 1:
            raise ValueError(f"Expected `iterations` >= 1, got {iterations}.")
        if precision not in PRECISIONS:
            raise ValueError(f"Expected `precision` to be one of {list(PRECISIONS)}, got {precision!r}.")
        self.iterations = iterations
        self.grams = Grams()
        self.low_precision = precision == "bfloat16" or (precision == "auto" and has_fast_bfloat16())

    def _vector(self, name: str, linear_map: LinearMap) -> tuple[str, Tensor]:
        """Return the stored left singular vector (1, *output_shape), computed at the first call."""
        key = "vector_" + _buffer_name(name)
        if not hasattr(self, key):
            origin = linear_map.origin
            start = torch.randn(1, *linear_map.output_shape, dtype=origin.dtype, device=origin.device)
            with torch.no_grad():
                image = linear_map.apply(power_iteration(linear_map, start, START_STEPS))
            self.register_buffer(key, unit_vector(image, start))
        return key, getattr(self, key)

    def _typical(self, name: str, linear_map: LinearMap) -> tuple[str, Tensor]:
        """Return where the images' local estimates of a dense map start, (1, n)."""
        key = "typical_" + _buffer_name(name)
        if not hasattr(self, key):
            self.register_buffer(key, self._vector(name, linear_map)[1].clone())
        return key, getattr(self, key)

    @torch.no_grad()
    def _average(self, key: str, typical: Tensor, left: Tensor) -> None:
        """Add an image's left vector, (1, n), to the typical one; broadcasting makes it the first rank's everywhere."""
        unit = unit_vector(left.to(typical), typical)
        sign = torch.where((unit * typical).sum() < 0, -1.0, 1.0)
        setattr(self, key, unit_vector(MEMORY * typical + (1 - MEMORY) * sign * unit, typical))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """Take checkpoints that lack vectors, which stay as they are here, or have some that are not in use yet."""
        for key, value in self._buffers.items():
            if key.startswith(("vector_", "typical_")):
                state_dict.setdefault(prefix + key, value)
        device = next((value.device for value in self.buffers()), None)
        for key in (each.removeprefix(prefix) for each in state_dict if each.startswith(prefix)):
            if key.startswith(("vector_", "typical_")) and key not in self._buffers:
                self.register_buffer(key, torch.empty_like(state_dict[prefix + key], device=device))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def global_norm(self, key: MapKey, linear_map: LinearMap) -> Tensor:
        """Return an *estimate* of the norm of the map itself, from below, (1,); arguments as in `Norms.global_norm`."""
        buffer, vector = self._vector(key.name, linear_map)
        estimate = estimate_norm(linear_map, power_iteration(linear_map, vector, self.iterations))
        if self.training:
            setattr(self, buffer, unit_vector(estimate.left, vector))
        return estimate.norm

    def local_norms(self, key: MapKey, linear_map: LinearMap, rows: Tensor | None, columns: Tensor | None) -> Tensor:
        """Return *estimates* of local norms, from below, (B,); arguments as in `Norms.local_norms`."""
        origin, typical = linear_map.origin, None
        if linear_map.per_image:
            vector = torch.ones(1, *linear_map.output_shape, dtype=origin.dtype, device=origin.device)
        elif len(linear_map.output_shape) == 1:
            typical, vector = self._typical(key.name, linear_map)
        else:
            _, vector = self._vector(key.name, linear_map)
        shared = vector + ALIVE * vector.numel() ** -0.5
        low = self.low_precision and origin.dtype == torch.float32
        dtype = torch.bfloat16 if low else origin.dtype
        rows, columns = (None if mask is None else mask.to(dtype) for mask in (rows, columns))
        with torch.autocast(origin.device.type, torch.bfloat16, enabled=low):
            right = self._right_vectors(key.name, linear_map, shared, rows, columns).to(dtype)
            estimate = estimate_norm(linear_map, right, rows)
        if self.training and typical is not None and torch.is_grad_enabled():
            self._average(typical, vector, estimate.left[:1])
        return estimate.norm.to(origin.dtype)

    @torch.no_grad()
    def _right_vectors(
        self, name: str, linear_map: LinearMap, shared: Tensor, rows: Tensor | None, columns: Tensor | None
    ) -> Tensor:
        """Return right vectors inside the column mask, (B or 1, *input_shape), to estimate norms with.

        Krylov steps for dense maps, on M M^T where that serves; power steps for others; in bfloat16 where that is
        faster: a relative error of 2^-8 in the vector changes the norm it yields by its square, and errors of single
        products average out. `shared`: (1, *output_shape), where all images start.
        """
        masked = linear_map.restricted(rows, columns)
        if len(linear_map.output_shape) != 1:
            right = shared_right_vector(linear_map, shared)
            right = right if columns is None else right.to(columns) * columns
            return power_iteration_from_right(masked, right, self.iterations)
        left = shared.expand(linear_map.masked_images(rows, columns), *linear_map.output_shape)
        left = left if rows is None else left.to(rows) * rows
        gram = self.grams.of(name, linear_map, keep=self.training)
        if gram is None:
            return krylov_iteration(masked, left, DENSE_STEPS * self.iterations)
        return power_iteration(masked, leading_vector(gram, rows, left, DENSE_STEPS * self.iterations), 1)
