"""Norm upper bounds of masked layers against exact norms: dense matrices, singular values by numpy in float64."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from torch import Tensor, nn

from lipcert.norms import MapKey, UpperNorms, is_small
from lipcert.soundness.dense import of_map, segments
from lipcert.soundness.masked import Masked, masked_layers
from lipcert.soundness.parts import Layer, Part


@dataclass(frozen=True)
class Ratios:
    """Upper bound over exact norm, of one layer by one algorithm.

    Attributes:
        layer: name of the activation behind the map.
        kind: the layers it is made of.
        method: `exact` or `Lanczos`.
        parts: whether random parts of the masked map were compared, for it is too large.
        count: norms compared; zero: those of them that are exactly 0, without a ratio.
        smallest, largest: ratios; None where all norms are 0.
        below: bounds below the exact norm.
        shape: (outputs, inputs).
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


UNKEPT = MapKey(None, 0, 0, False, "part")
"""Stands for a map whose global norm is not kept."""


def _times(first: Tensor | None, second: Tensor | None, like: Tensor) -> Tensor | None:
    if second is None:
        return first
    return second.to(like) if first is None else first * second.to(like)


def _compare(masked: Masked, part: Part, norms: UpperNorms, like: Tensor) -> tuple[bool, float, float]:
    """Return whether it is a random part that is compared, its upper bound and its exact norm."""
    exact = part.exact_norm(masked.rows, masked.columns)
    if all(mask is None for mask in part.masks):
        return False, masked.upper, exact
    rows, columns = (
        _times(mask, taken, like) for mask, taken in zip((masked.rows, masked.columns), part.masks, strict=True)
    )
    return True, norms.local_norms(UNKEPT, masked.linear_map, rows, columns).item(), exact


def _summary(masked: Masked, kind: str, shape: tuple[int, int], found: list[tuple[bool, float, float]]) -> Ratios:
    ratios = [upper / exact for _, upper, exact in found if exact > 0]
    return Ratios(
        layer=masked.layer,
        kind=kind,
        method="exact" if is_small(masked.linear_map) else "Lanczos",
        parts=found[0][0],
        shape=shape,
        count=len(found),
        zero=len(found) - len(ratios),
        smallest=min(ratios, default=None),
        largest=max(ratios, default=None),
        below=sum(not upper >= exact for _, upper, exact in found),
    )


def compare_norms(
    model: nn.Module, images: Tensor, epsilon: float, count: int, side: int, generator: np.random.Generator
) -> NormsOutcome:
    """Compare at least `count` norm bounds with exact norms.

    Args:
        model: in eval mode; images: (N, C, H, W), on its device.
        epsilon: l2 radius of the region in which layers are masked.
        count: norms wanted; 0 for none.
        side: outputs, and inputs, of the random parts that stand for masked layers too large to decompose.
        generator: of those parts.
    """
    started = time.perf_counter()
    norms, noted = masked_layers(model, images, epsilon, count) if count else (UpperNorms(), [])
    known = segments(model, tuple(images.shape[1:]))
    like = images[:1].double()
    ratios = []
    for name, group in groupby(noted, key=lambda masked: masked.layer):
        members = list(group)
        layer = Layer(known.get(name) or of_map(members[0].linear_map, images.device), side, generator)
        found = [
            _compare(masked, layer.part_for(masked.rows, masked.columns, number), norms, like)
            for number, masked in enumerate(members)
        ]
        for parts in (False, True):
            of_kind = [each for each in found if each[0] == parts]
            if of_kind:
                ratios.append(_summary(members[0], layer.segment.kind, (layer.outputs, layer.inputs), of_kind))
    return NormsOutcome(count, sum(each.count for each in ratios), tuple(ratios), time.perf_counter() - started)
