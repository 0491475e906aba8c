"""The masked layers that a network's test images meet, with the norm bounds they were given."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipcert.bounds import Bound, UpperNorms, analyze
from lipcert.bounds.linear_map import LinearMap
from lipcert.certificates import STAGES
from lipcert.certificates.validation import double_copy

FACTORS = (0.25, 0.5, 1.0, 2.0)
"""Multiples of epsilon at which masks are collected."""

BOUNDS = (Bound.LOCAL, Bound.TIGHT)

IMAGES_AT_A_TIME = 2


@dataclass(frozen=True)
class Masked:
    """One norm that was bounded: diag(rows) M diag(columns) of one image; masks (1, *shape) or None for ones."""

    layer: str
    linear_map: LinearMap
    rows: Tensor | None
    columns: Tensor | None
    upper: float


class NotedNorms:
    """Upper bounds for a walk, each of which is noted; `inner` computes them."""

    def __init__(self, inner: UpperNorms) -> None:
        self.inner = inner
        self.noted: dict[str, list[Masked]] = defaultdict(list)
        self._whole: set[str] = set()

    def whole(self, name: str, linear_map: LinearMap, like: Tensor) -> Tensor:
        upper = self.inner.whole(name, linear_map, like)
        if name not in self._whole and not name.endswith("..layer"):  # those carry rounding through single layers
            self._whole.add(name)
            self.noted[name].append(Masked(name, linear_map, None, None, upper[0].item()))
        return upper

    def masked(
        self, name: str, linear_map: LinearMap, rows: Tensor | None, columns: Tensor | None, like: Tensor
    ) -> Tensor:
        uppers = self.inner.masked(name, linear_map, rows, columns, like)
        for row, upper in enumerate(uppers.expand(like.shape[0]).tolist()):
            own = [None if mask is None else mask[row % len(mask)][None] for mask in (rows, columns)]
            self.noted[name].append(Masked(name, linear_map, own[0], own[1], upper))
        return uppers


@torch.no_grad()
def masked_layers(model: nn.Module, images: Tensor, epsilon: float, count: int) -> tuple[UpperNorms, list[Masked]]:
    """Return at least `count` masked layers of the first images, fewer where there are no more, and what bounded them.

    Args:
        model: in eval mode; images: (N, ...), on its device.
        epsilon: l2 radius; masks are those at several multiples of it.
        count: norms wanted.
    """
    double = double_copy(model)
    steps = sorted({stage.lanczos_steps for stage in STAGES})
    norms = NotedNorms(UpperNorms())
    for number, batch in enumerate(images.double().split(IMAGES_AT_A_TIME)):
        if sum(map(len, norms.noted.values())) >= count:
            break
        norms.inner.steps = steps[number % len(steps)]
        for factor in FACTORS:
            for bound in BOUNDS:
                analyze(double, batch, factor * epsilon, bound, norms)
    return norms.inner, [each for layer in norms.noted.values() for each in layer]
