"""The loop transformation (LipLT, Fazlyab et al. 2023): σ(z') - σ(z) = D (z' - z) + r, the first part kept linear."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from lipcert.bounds.linear_split import masked
from lipcert.bounds.product import Closed, Entry, capped_local_norms, constant, needed_inputs, varying_outputs
from lipcert.bounds.region import Source, Term, opened
from lipcert.graph import Box, scaling

UNIT = (0.0, 1.0)
"""Slopes of activations that a slope of 1/2 leaves a remainder of half the Lipschitz constant."""

LARGEST_MERGED = 2**15
"""Behind larger activations linear runs start anew: their norms would cost more than they gain."""


def close_liplt(entry: Entry) -> Closed:
    """Close `tight`ly, and by D of slopes 0, 1/2, 1 with |r| <= |z' - z| / 2; the smaller constant counts.

    Where an activation is not elementwise D is 0 and r all of σ(z') - σ(z).
    """
    region, function, across = entry.region, entry.node.function, entry.region.merged is not None
    varying = varying_outputs(entry)
    rows = needed_inputs(entry, varying)
    norms = capped_local_norms(entry, rows)
    tight = constant(region.terms, norms)

    def behind(rows: Tensor | None) -> Tensor:
        return torch.minimum(tight, constant(entry.longest, entry.local_norms(entry.longest, rows)))

    lipschitz = behind(rows) if across else tight
    source = replace(entry.source, lipschitz=lipschitz, box_lipschitz=lipschitz, varying=varying)
    assert entry.box is not None
    linear = function.linear(*entry.box)
    remainder = function.remainder(region.center, *entry.box)
    if linear is None or varying is None or remainder is None or function.slopes != UNIT or _large(region.shape):
        return Closed(source, norms, mask=varying, mask_rows=True)
    bending = varying * (1 - linear)
    box = (bending * remainder[0], bending * remainder[1])
    merged = _remainder(source, behind(bending) / 2, box, bending)
    return Closed(source, norms, merged | masked(entry.longest, linear + bending / 2), varying, mask_rows=True)


def close_global_liplt(entry: Entry) -> Closed:
    """Close by global norms, and by D = 1/2 everywhere with |r| <= |z' - z| / 2, as published; needs no box."""
    source, runs = entry.source, entry.longest
    if entry.region.merged is not None:
        pairs = zip(entry.keys_of(runs), runs.values(), strict=True)
        across = constant(runs, [entry.norms.global_norm(key, term.map) for key, term in pairs])
        if entry.node.function.lipschitz is not None:
            across = across * entry.node.function.lipschitz
        lipschitz = torch.minimum(source.lipschitz, across)
        source = replace(source, lipschitz=lipschitz, box_lipschitz=lipschitz)
    if entry.node.function.slopes != UNIT or _large(entry.region.shape):
        return Closed(source, entry.global_norms)
    half = scaling(entry.region.shape, source.center.new_full((1,) * source.center.dim(), 0.5))
    halves = {key: Term(term.source, term.map.after(half)) for key, term in runs.items()}
    return Closed(source, entry.global_norms, _remainder(source, source.lipschitz / 2) | halves)


def _remainder(
    source: Source, lipschitz: Tensor, box: Box | None = None, varying: Tensor | None = None
) -> dict[tuple[int, bool], Term]:
    """Return the term of an activation's remainder, without row norms: it bounds no neurons."""
    center = torch.zeros_like(source.center)
    kept = Source(source.index, center, box, lipschitz, lipschitz, source.product, varying)
    return {(source.index, True): replace(opened(kept), rows=None)}


def _large(shape: tuple[int, ...]) -> bool:
    return math.prod(shape) > LARGEST_MERGED
