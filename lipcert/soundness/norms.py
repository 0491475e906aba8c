"""Norm upper bounds of masked layers against exact norms: dense matrices, singular values by numpy in float64."""

import time
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lipcert.bounds import Bound, analyze
from lipcert.certificates import STAGES
from lipcert.certificates.float64 import double_copy
from lipcert.graph import LinearMap, compile_graph
from lipcert.norms import MapKey, UpperNorms, is_small
from lipcert.soundness.dense import Layer, of_map, segments

FACTORS = (0.25, 0.5, 1.0, 2.0)
"""Multiples of epsilon at which masks are collected."""

IMAGES_AT_A_TIME = 2

UNKEPT = MapKey(None, 0, 0, False, "part")
"""Stands for a map whose global norm is not kept."""


@dataclass(frozen=True)
class Ratios:
    """Upper bound over exact norm, of one layer by one algorithm.

    Attributes:
        layer: name of the activation behind the map; kind: the layers it is made of.
        method: `exact` or `Lanczos`.
        parts: whether random parts of the masked map were compared, for it is too large.
        shape: (outputs, inputs).
        count: norms compared; zero: those of them that are exactly 0, without a ratio.
        smallest, largest: ratios; None where all norms are 0.
        below: bounds below the exact norm.
    """

    layer: str
    kind: str
    method: str
    parts: bool
    shape: tuple[int, int]
    count: int
    zero: int
    smallest: float | None
    largest: float | None
    below: int


@dataclass(frozen=True)
class NormsOutcome:
    """Outcome of the comparison: `asked` norms were wanted, `compared` were there."""

    asked: int
    compared: int
    ratios: tuple[Ratios, ...]
    seconds: float

    @property
    def refutations(self) -> list[str]:
        """A sentence for each layer with a bound below the exact norm."""
        return [
            f"layer {each.layer!r} ({each.kind}): {each.below} of {each.count} norm bounds lie below the exact norm, "
            f"at {each.smallest or 0:.6g} of it"
            for each in self.ratios
            if each.below
        ]


@dataclass(frozen=True)
class Masked:
    """One norm that was bounded: diag(rows) M diag(columns) of one image; masks (1, *shape)."""

    linear_map: LinearMap
    rows: Tensor
    columns: Tensor
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
            self._note(key, linear_map, None, None, upper)
        return upper

    def local_norms(self, key: MapKey, linear_map: LinearMap, rows: Tensor | None, columns: Tensor | None) -> Tensor:
        uppers = self.inner.local_norms(key, linear_map, rows, columns)
        self._note(key, linear_map, rows, columns, uppers)
        return uppers

    def _note(
        self, key: MapKey, linear_map: LinearMap, rows: Tensor | None, columns: Tensor | None, uppers: Tensor
    ) -> None:
        rows = linear_map.origin.new_ones(1, *linear_map.output_shape) if rows is None else rows
        columns = linear_map.origin.new_ones(1, *linear_map.input_shape) if columns is None else columns
        for image, upper in enumerate(uppers.tolist()):
            own_rows, own_columns = (mask[image % len(mask)].unsqueeze(0) for mask in (rows, columns))
            self.noted[key.name].append(Masked(linear_map, own_rows, own_columns, upper))


@torch.no_grad()
def masked_layers(
    model: nn.Module, images: Tensor, epsilon: float, count: int
) -> tuple[UpperNorms, dict[str, list[Masked]]]:
    """Return what bounded norms, and at least `count` masked layers of the first images (N, ...) by name, or all.

    The model is in eval mode, on the images' device; masks are those at several multiples of `epsilon`.
    """
    graph = compile_graph(double_copy(model), images.shape[1:]).frozen()
    steps = sorted({stage.lanczos_steps for stage in STAGES})
    norms = NotedNorms(UpperNorms())
    for number, batch in enumerate(images.double().split(IMAGES_AT_A_TIME)):
        if sum(map(len, norms.noted.values())) >= count:
            break
        norms.inner = norms.inner.with_steps(steps[number % len(steps)])
        for factor in FACTORS:
            for bound in (Bound.LOCAL, Bound.TIGHT):
                analyze(graph, batch, factor * epsilon, bound, norms)
    return norms.inner, norms.noted


def _compared(name: str, members: list[Masked], layer: Layer, norms: UpperNorms) -> list[Ratios]:
    """Return the ratios of a layer's masked maps, and of random parts of those that are too large."""
    found = defaultdict[bool, list[tuple[float, float]]](list)
    for number, masked in enumerate(members):
        part, upper = layer.part_for(masked.rows, masked.columns, number), masked.upper
        if part is not layer.whole:
            rows, columns = masked.rows * part.rows.to(masked.rows), masked.columns * part.columns.to(masked.columns)
            upper = norms.local_norms(UNKEPT, masked.linear_map, rows, columns).item()
        found[part is not layer.whole].append((upper, part.exact_norm(masked.rows, masked.columns)))
    ratios = []
    for parts, pairs in sorted(found.items()):
        quotients = [upper / exact for upper, exact in pairs if exact > 0]
        each = Ratios(
            layer=name,
            kind=layer.segment.kind,
            method="exact" if is_small(members[0].linear_map) else "Lanczos",
            parts=parts,
            shape=layer.segment.shape,
            count=len(pairs),
            zero=len(pairs) - len(quotients),
            smallest=min(quotients, default=None),
            largest=max(quotients, default=None),
            below=sum(not upper >= exact for upper, exact in pairs),
        )
        ratios.append(each)
    return ratios


def compare_norms(
    model: nn.Module, images: Tensor, epsilon: float, count: int, side: int, generator: np.random.Generator
) -> NormsOutcome:
    """Compare at least `count` bounds with exact norms, of layers masked as within `epsilon` of images (N, C, H, W).

    Masked layers too large to decompose are compared in random parts of `side` outputs, and inputs, by `generator`.
    """
    started, ratios = time.perf_counter(), list[Ratios]()
    if count:
        norms, noted = masked_layers(model, images, epsilon, count)
        known = segments(model, tuple(images.shape[1:]))
        for name, members in noted.items():
            segment = known.get(name) or of_map(members[0].linear_map, images.device)
            ratios += _compared(name, members, Layer(segment, side, generator), norms)
    return NormsOutcome(count, sum(each.count for each in ratios), tuple(ratios), time.perf_counter() - started)
