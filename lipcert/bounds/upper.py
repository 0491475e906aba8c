"""The norms that certificates rest on: upper bounds, exact where a map is small, by Lanczos elsewhere."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from lipcert.bounds.bracket import Bracket
from lipcert.bounds.exact import exact_norm, is_small
from lipcert.bounds.lanczos import fresh_generator, norm_bracket
from lipcert.bounds.linear_map import LinearMap
from lipcert.bounds.operators import Shape


class UpperNorms:
    """Norm *upper bounds* for certificates of one model, exact ones of small maps; counts those that may fail.

    Global norms are kept under the layer's name: a second model, or changed weights, need an object of their own.

    Args:
        steps: Lanczos steps of a norm an image.
        whole_steps: Lanczos steps of a global norm, bounded once and kept; when None, three times `steps`, at most 120.
        failure_probability: δ of each norm.
        generator: source of randomness; the operating system's when None.
    """

    def __init__(
        self,
        steps: int = 40,
        whole_steps: int | None = None,
        failure_probability: float = 1e-9,
        generator: np.random.Generator | None = None,
    ) -> None:
        self.steps = steps
        self.whole_steps = min(120, 3 * steps) if whole_steps is None else whole_steps
        self.failure_probability = failure_probability
        self.generator = fresh_generator() if generator is None else generator
        self.bounded = 0
        self._whole: dict[tuple[str, Shape, Shape], Bracket] = {}

    @property
    def union_failure_probability(self) -> float:
        """Probability that any norm bounded so far is wrong, by the union bound."""
        return min(1.0, self.bounded * self.failure_probability)

    def _bound(
        self, linear_map: LinearMap, like: Tensor, steps: int, rows: Tensor | None = None, columns: Tensor | None = None
    ) -> Bracket:
        if is_small(linear_map):
            return exact_norm(linear_map, like, rows, columns)
        self.bounded += like.shape[0]
        return norm_bracket(linear_map, like, steps, self.failure_probability, rows, columns, self.generator)

    def whole(self, name: str, linear_map: LinearMap, like: Tensor) -> Tensor:
        """Return an *upper bound* of the norm of the map itself, (1,); arguments as in `Norms.whole`."""
        key = (name, linear_map.input_shape, linear_map.output_shape)
        if key not in self._whole:
            self._whole[key] = self._bound(linear_map, like[:1], self.whole_steps)
        return self._whole[key].upper

    def masked(
        self,
        name: str,
        linear_map: LinearMap,
        rows: Tensor | None,
        columns: Tensor | None,
        like: Tensor,
    ) -> Tensor:
        """Return *upper bounds* of masked norms, (B,); arguments as in `Norms.masked`."""
        return self._bound(linear_map, like, self.steps, rows, columns).upper

    def brackets(self) -> dict[str, tuple[float, float]]:
        """Return lower and upper bounds of the global norms bounded so far, by name."""
        return {name: (each.lower.item(), each.upper.item()) for (name, *_), each in self._whole.items()}
