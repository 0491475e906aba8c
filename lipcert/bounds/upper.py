"""The norms that certificates rest on: upper bounds, exact where a map is small, by Lanczos elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lipcert.bounds.bracket import Bracket
from lipcert.bounds.exact import exact_norm, is_small
from lipcert.bounds.lanczos import fresh_generator, norm_bracket
from lipcert.bounds.linear_map import LinearMap
from lipcert.bounds.operators import Shape


@dataclass(frozen=True)
class WholeNorm:
    """A global norm, and what its map made of a random vector, by which the map is known again."""

    bracket: Bracket
    probe: Tensor
    image: Tensor

    @classmethod
    def of(cls, bracket: Bracket, linear_map: LinearMap, like: Tensor, generator: np.random.Generator) -> WholeNorm:
        """Keep the bracket of a map that is the same for all images; `like`: dtype and device."""
        probe = torch.from_numpy(generator.standard_normal((1, *linear_map.input_shape))).to(like)
        return cls(bracket, probe, linear_map.apply(probe))

    def is_of(self, linear_map: LinearMap) -> bool:
        """Return whether the norm is that of this map: another one agrees on a random vector with probability 0."""
        return not linear_map.per_image and torch.equal(linear_map.apply(self.probe), self.image)


def constant_share(mask: Tensor | None, like: Tensor) -> Tensor:
    """Return which share of each image's units a mask leaves out, (B,); `like`: (B, ...)."""
    return like.new_zeros(like.shape[0]) if mask is None else 1 - mask.flatten(1).mean(dim=1)


class UpperNorms:
    """Norm *upper bounds* for certificates of one model, exact ones of small maps; counts those that may fail.

    Global norms are kept under the layer's name: a second model, or changed weights, need an object of their own.
    Where nearly all units around a layer vary its masked norm is bounded by the global one, which costs nothing.

    Args:
        steps: Lanczos steps of a norm an image.
        whole_steps: Lanczos steps of a global norm, bounded once and kept; when None, three times `steps`, at most 120.
        failure_probability: δ of each norm.
        generator: source of randomness; the operating system's when None.
        worth: masks that leave out a smaller share of the rows and of the columns are not worth a norm of their own.
    """

    def __init__(
        self,
        steps: int = 40,
        whole_steps: int | None = None,
        failure_probability: float = 1e-9,
        generator: np.random.Generator | None = None,
        worth: float = 0.0,
    ) -> None:
        self.worth = worth
        self.steps = steps
        self.whole_steps = min(120, 3 * steps) if whole_steps is None else whole_steps
        self.failure_probability = failure_probability
        self.generator = fresh_generator() if generator is None else generator
        self.bounded = 0
        self._whole: dict[tuple[str, Shape, Shape], WholeNorm] = {}

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
            bracket = self._bound(linear_map, like[:1], self.whole_steps)
            self._whole[key] = WholeNorm.of(bracket, linear_map, like, self.generator)
        return self._whole[key].bracket.upper

    def masked(
        self,
        name: str,
        linear_map: LinearMap,
        rows: Tensor | None,
        columns: Tensor | None,
        like: Tensor,
    ) -> Tensor:
        """Return *upper bounds* of masked norms, (B,); arguments as in `Norms.masked`."""
        whole = self._whole.get((name, linear_map.input_shape, linear_map.output_shape))
        if whole is None or not whole.is_of(linear_map):
            return self._bound(linear_map, like, self.steps, rows, columns).upper
        left_out = torch.maximum(constant_share(rows, like), constant_share(columns, like))
        chosen = ((left_out > 0) & (left_out >= self.worth)).nonzero()[:, 0]
        norms = whole.bracket.upper.expand(like.shape[0]).clone()
        if len(chosen):
            few_rows, few_columns = (
                None if mask is None else mask.expand(like.shape[0], *mask.shape[1:])[chosen]
                for mask in (rows, columns)
            )
            found = self._bound(linear_map, like[chosen], self.steps, few_rows, few_columns).upper
            norms[chosen] = torch.minimum(norms[chosen], found)
        return norms

    def brackets(self) -> dict[str, tuple[float, float]]:
        """Return lower and upper bounds of the global norms bounded so far, by name."""
        brackets = {name: each.bracket for (name, *_), each in self._whole.items()}
        return {name: (each.lower.item(), each.upper.item()) for name, each in brackets.items()}
