"""The masked layers of a network on its test images, with the upper bounds of their norms."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipcert.bounds import Bound, analyze
from lipcert.certificates import STAGES
from lipcert.certificates.float64 import double_copy
from lipcert.graph import LinearMap, compile_graph
from lipcert.norms import MapKey, UpperNorms

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
    """Upper bounds of norms by `inner`; each is noted with its map and masks, by the name of the map."""

    def __init__(self, inner: UpperNorms) -> None:
        self.inner = inner
        self.noted: dict[str, list[Masked]] = defaultdict(list)
        self._global: set[MapKey] = set()

    def global_norm(self, key: MapKey, linear_map: LinearMap) -> Tensor:
        upper = self.inner.global_norm(key, linear_map)
        if key not in self._global:
            self._global.add(key)
            self.noted[key.name].append(Masked(key.name, linear_map, None, None, upper[0].item()))
        return upper

    def local_norms(self, key: MapKey, linear_map: LinearMap, rows: Tensor | None, columns: Tensor | None) -> Tensor:
        uppers = self.inner.local_norms(key, linear_map, rows, columns)
        for row, upper in enumerate(uppers.tolist()):
            own = [None if mask is None else mask[row % len(mask)][None] for mask in (rows, columns)]
            self.noted[key.name].append(Masked(key.name, linear_map, own[0], own[1], upper))
        return uppers


@torch.no_grad()
def masked_layers(model: nn.Module, images: Tensor, epsilon: float, count: int) -> tuple[UpperNorms, list[Masked]]:
    """Return at least `count` masked layers of the first images, fewer where there are no more, and what bounded them.

    Args:
        model: in eval mode; images: (N, ...), on its device.
        epsilon: l2 radius; masks are those at several multiples of it.
        count: norms wanted.
    """
    graph = compile_graph(double_copy(model), images.shape[1:]).frozen()
    steps = sorted({stage.lanczos_steps for stage in STAGES})
    norms = NotedNorms(UpperNorms())
    for number, batch in enumerate(images.double().split(IMAGES_AT_A_TIME)):
        if sum(map(len, norms.noted.values())) >= count:
            break
        norms.inner = norms.inner.with_steps(steps[number % len(steps)])
        for factor in FACTORS:
            for bound in BOUNDS:
                analyze(graph, batch, factor * epsilon, bound, norms)
    return norms.inner, [each for layer in norms.noted.values() for each in layer]
