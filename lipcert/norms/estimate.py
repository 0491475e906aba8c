"""Power iteration and its acceleration: lower *estimates* of spectral norms, to train on, never to certify with."""

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from lipcert.graph.operators import LinearMap
from lipcert.norms.krylov import averaged, global_norms, local_norms
from lipcert.norms.protocol import MapKey

START_STEPS = 30
"""Power steps that bring a new global singular vector near its limit, so that radii start out honest."""

WIDE = 3
"""Inputs an output of a dense map from which on Krylov steps on M Mᵀ are cheaper than on M."""

LARGEST = 2048
"""Outputs up to which they are."""

EVERY = 20
"""Uses in training after which M Mᵀ is made anew; it serves starts only, which may be a little out of date."""

PRECISIONS = ("auto", "float32", "bfloat16")

AMPERE = (8, 0)
"""Compute capability from which on GPUs have units for bfloat16."""


@cache
def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 convolutions run on hardware units of a device; GPUs before Ampere emulate them."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= AMPERE
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
            device of the weights is fast at it. Lengths are accumulated in float32; global norms are always in the
            model's precision.

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
        self.precision = precision

    def _vector(self, name: str, linear_map: LinearMap) -> Tensor:
        """Return the stored left singular vector (1, *output_shape), computed at the first call."""
        key = "vector_" + _buffer_name(name)
        if not hasattr(self, key):
            origin = linear_map.origin
            start = torch.randn(1, *linear_map.output_shape, dtype=origin.dtype, device=origin.device)
            with torch.no_grad():
                self.register_buffer(key, global_norms([linear_map], [start], START_STEPS)[1][0])
        return getattr(self, key)

    def _typical(self, name: str, linear_map: LinearMap) -> Tensor:
        """Return where the images' local estimates of a dense map start, (1, n)."""
        key = "typical_" + _buffer_name(name)
        if not hasattr(self, key):
            self.register_buffer(key, self._vector(name, linear_map).clone())
        return getattr(self, key)

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
        return self.global_norms({key: linear_map})[key]

    def global_norms(self, maps: Mapping[MapKey, LinearMap]) -> dict[MapKey, Tensor]:
        """Return *estimates* of the norms of several maps side by side, from below, (1,) each."""
        vectors = [self._vector(key.name, each) for key, each in maps.items()]
        norms, _ = global_norms(list(maps.values()), vectors, self.iterations, keep=self.training)
        return dict(zip(maps, norms.split(1), strict=True))

    def local_norms(self, key: MapKey, linear_map: LinearMap, rows: Tensor | None, columns: Tensor | None) -> Tensor:
        """Return *estimates* of local norms, from below, (B,); arguments as in `Norms.local_norms`."""
        origin = linear_map.origin
        if linear_map.per_image:
            vector = torch.ones(1, *linear_map.output_shape, dtype=origin.dtype, device=origin.device)
        elif len(linear_map.output_shape) == 1:
            vector = self._typical(key.name, linear_map)
        else:
            vector = self._vector(key.name, linear_map)
        gram = self.grams.of(key.name, linear_map, keep=self.training)
        fast = self.precision == "bfloat16" or (self.precision == "auto" and has_fast_bfloat16(origin.device))
        low = fast and origin.dtype == torch.float32
        found = local_norms(linear_map, vector, rows, columns, self.iterations, gram, low)
        typical = not linear_map.per_image and len(linear_map.output_shape) == 1
        if self.training and typical and torch.is_grad_enabled():
            averaged(vector, found.left[:1])  # broadcasting makes it the first rank's everywhere
        return found.norm
