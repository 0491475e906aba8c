"""The norms that certificates rest on: upper bounds, exact where a map is small, by Lanczos elsewhere."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lipcert.graph import Activation, Graph, Image
from lipcert.graph.operators import LinearMap, NonFiniteBoundError, largest_absolute
from lipcert.norms.lanczos import ROUNDING, SMALLEST_NORM, Bracket, enclose, norm_bracket
from lipcert.norms.protocol import MapKey

EXACT_SIDE, EXACT_SIDE_PER_IMAGE = 128, 64
"""Maps with a side of so few entries, the same for all images or not, get exact norms."""

FINER, FINER_SIDE = 4, 2**13
"""By how much the steps of a norm grow that is bounded once more, and the larger side of maps that may be."""


@torch.no_grad()
def exact_norm(linear_map: LinearMap, rows: Tensor | None = None, columns: Tensor | None = None) -> Bracket:
    """Return a lower and an *upper bound* on the norm of diag(rows) M diag(columns).

    Certain, and exact up to the rounding of its Gram matrix and of the eigenvalues, for which it allows; for maps with
    a small side, see `is_small`.

    Raises:
        NonFiniteBoundError: if the operator yields NaN or infinity.
    """
    on_input = math.prod(linear_map.input_shape) <= math.prod(linear_map.output_shape)
    inner, outer = (columns, rows) if on_input else (rows, columns)
    shape = linear_map.input_shape if on_input else linear_map.output_shape
    through = linear_map.apply if on_input else linear_map.adjoint
    size, origin, count = math.prod(shape), linear_map.origin, linear_map.images
    units = torch.eye(size, dtype=origin.dtype, device=origin.device).view(size, 1, *shape)
    if linear_map.per_image:
        images = torch.stack([through(unit.expand(count, *shape)).flatten(1) for unit in units], dim=1)
    else:
        images = through(units[:, 0]).flatten(1)[None]
    masked = images if outer is None else images * outer.flatten(1)[:, None]
    gram = masked @ images.mT
    if inner is not None:
        gram = gram * inner.flatten(1)[:, None] * inner.flatten(1)[:, :, None]
    if not bool(gram.isfinite().all()):
        raise NonFiniteBoundError("a layer's operator yields NaN or infinity; check its weights.")
    largest = largest_absolute(linear_map) * (1 + ROUNDING)
    operations = sum(linear_map.roundings) + images.shape[-1] + 100 * size
    slack = operations * torch.finfo(torch.float64).eps * largest.square()
    eigenvalue = torch.linalg.eigvalsh(gram)[:, -1].clamp_min(0)
    lower = (eigenvalue - slack).clamp_min(0).sqrt() * (1 - ROUNDING)
    upper = (eigenvalue + slack).sqrt() * (1 + ROUNDING)
    upper = torch.minimum(upper, largest)
    if rows is None and columns is None:
        upper = torch.where(largest == 0, 0, upper).clamp_min(SMALLEST_NORM)
        return Bracket(torch.minimum(lower, upper), upper)
    return enclose(linear_map, rows, columns, lower, upper)


def is_small(linear_map: LinearMap) -> bool:
    """Return whether `exact_norm` costs less than Lanczos: it applies the map once a unit vector, not once a step."""
    side = min(math.prod(linear_map.input_shape), math.prod(linear_map.output_shape))
    return side <= (EXACT_SIDE_PER_IMAGE if linear_map.per_image else EXACT_SIDE)


def constant_share(mask: Tensor | None, images: int) -> Tensor | float:
    """Return which share of each image's units a mask leaves out, (B,)."""
    return 0.0 if mask is None else (1 - mask.flatten(1).mean(dim=1)).expand(images)


@dataclass
class _Kept:
    """Global norms bounded so far, and how many norms were bounded that may fail."""

    brackets: dict[MapKey, Bracket] = field(default_factory=dict)
    bounded: int = 0


class UpperNorms:
    """Norm *upper bounds* for certificates, exact ones of small maps; counts those that may fail.

    Global norms are kept for graphs that have a key: their weights do not change. Where nearly all units around a map
    vary, its local norm is bounded by the global one.

    Args:
        steps: Lanczos steps of a local norm.
        global_steps: Lanczos steps of a global norm; when None, three times `steps`, at most 120.
        failure_probability: δ of each norm.
        generator: source of randomness; the operating system's when None.
        smallest_share: masks that leave out a smaller share of the rows and of the columns get the global norm.
        width: global norms of small maps are bounded once more, in `FINER` times the steps, where the upper bound
            exceeds the lower by a larger share: of layers that are nearly isometries, where Lanczos converges slowly.
    """

    def __init__(
        self,
        steps: int = 40,
        global_steps: int | None = None,
        failure_probability: float = 1e-9,
        generator: np.random.Generator | None = None,
        smallest_share: float = 0.0,
        width: float = math.inf,
    ) -> None:
        self.steps, self.width = steps, width
        self.global_steps = min(120, 3 * steps) if global_steps is None else global_steps
        self.failure_probability = failure_probability
        self.generator = generator
        self.smallest_share = smallest_share
        self._kept = _Kept()

    def with_steps(self, steps: int, smallest_share: float = 0.0) -> UpperNorms:
        """Return norms of other precision that share global norms, randomness and the count of norms with these."""
        other = copy.copy(self)
        other.steps, other.smallest_share = steps, smallest_share
        return other

    @property
    def bounded(self) -> int:
        """How many norms were bounded that may fail."""
        return self._kept.bounded

    @property
    def union_failure_probability(self) -> float:
        """Probability that any norm bounded so far is wrong, by the union bound."""
        return min(1.0, self.bounded * self.failure_probability)

    def _bound(
        self, linear_map: LinearMap, steps: int, rows: Tensor | None = None, columns: Tensor | None = None
    ) -> Bracket:
        if is_small(linear_map):
            return exact_norm(linear_map, rows, columns)
        self._kept.bounded += linear_map.masked_images(rows, columns)
        return norm_bracket(linear_map, steps, self.failure_probability, rows, columns, self.generator)

    def bracket(self, key: MapKey, linear_map: LinearMap) -> Bracket:
        """Return a lower and an *upper bound* of the norm of the map itself, (1,) each; kept where the key allows."""
        if key.graph is None or linear_map.per_image:
            return self._bound(linear_map, self.global_steps)
        key = key._replace(name="")
        if key not in self._kept.brackets:
            self._kept.brackets[key] = self._narrow(linear_map)
        return self._kept.brackets[key]

    def _narrow(self, linear_map: LinearMap) -> Bracket:
        """Return a bracket of the norm of the map itself, of two tries where the first is wide."""
        first = self._bound(linear_map, self.global_steps)
        side = max(map(math.prod, (linear_map.input_shape, linear_map.output_shape)))
        if side > FINER_SIDE or float(first.upper) <= float(first.lower) * (1 + self.width):
            return first
        again = self._bound(linear_map, FINER * self.global_steps)
        return Bracket(torch.maximum(first.lower, again.lower), torch.minimum(first.upper, again.upper))

    def global_norm(self, key: MapKey, linear_map: LinearMap) -> Tensor:
        """Return an *upper bound* of the norm of the map itself, (1,); arguments as in `Norms.global_norm`."""
        return self.bracket(key, linear_map).upper

    def local_norms(self, key: MapKey, linear_map: LinearMap, rows: Tensor | None, columns: Tensor | None) -> Tensor:
        """Return *upper bounds* of local norms, (B,); arguments as in `Norms.local_norms`.

        Never above the global norm where that is kept.
        """
        if key.graph is None or linear_map.per_image:
            return self._bound(linear_map, self.steps, rows, columns).upper
        images = linear_map.masked_images(rows, columns)
        norms = self.global_norm(key, linear_map).expand(images).clone()
        shares = torch.maximum(*(torch.as_tensor(constant_share(mask, images)) for mask in (rows, columns)))
        chosen = ((shares > 0) & (shares >= self.smallest_share)).expand(images).nonzero()[:, 0]
        if len(chosen):
            few = [None if mask is None else mask.expand(images, *mask.shape[1:])[chosen] for mask in (rows, columns)]
            norms[chosen] = torch.minimum(norms[chosen], self._bound(linear_map, self.steps, *few).upper)
        return norms

    def brackets(self, graph: Graph) -> dict[str, tuple[float, float]]:
        """Return lower and upper bounds of the global norms kept of a graph's maps, by the activation they end at.

        Activations that several maps end at are left out.
        """
        starts = {node.index for node in graph.nodes if isinstance(node, Image | Activation)}
        found: dict[str, tuple[float, float]] = {}
        for activation in graph.activations:
            ends = [
                bracket
                for key, bracket in self._kept.brackets.items()
                if key.graph == graph.key and key.target == activation.sources[0]
                if key.source in starts and not key.across
            ]
            if len(ends) == 1:
                found[activation.name] = (ends[0].lower.item(), ends[0].upper.item())
        return found
