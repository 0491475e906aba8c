"""The loop transformation (LipLT, Fazlyab et al. 2023): σ(z') - σ(z) = D (z' - z) + r, the first part kept linear."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lipcert.bounds.activation import Closed, Entry, constant, product_of
from lipcert.bounds.linear_split import masked
from lipcert.bounds.product import capped_local_norms, needed_inputs, varying_outputs
from lipcert.bounds.region import Source, Term, opened
from lipcert.graph.operators import identity_map
from lipcert.graph.scaling import scaling

UNIT = (0.0, 1.0)
"""Slopes of activations that a slope of 1/2 leaves a remainder of half the Lipschitz constant."""

LARGEST_MERGED = 2**15
"""Behind larger activations linear runs start anew: their norms would cost more than they gain."""


def close_liplt(entry: Entry) -> Closed:
    """Close `tight`ly, and by D of slopes 0, 1/2, 1 with |r| <= |z' - z| / 2; the smaller constant counts.

    Where an activation is not elementwise D is 0 and r all of σ(z') - σ(z).
    """
    region, function = entry.region, entry.function
    whole = entry.global_norms(region.terms)
    varying = varying_outputs(entry)
    rows = needed_inputs(entry, varying)
    norms = capped_local_norms(entry, region.terms, whole, rows)
    tight = constant(region.terms.values(), norms)
    product = product_of(region.terms.values(), whole)
    runs = region.terms if region.merged is None else region.merged

    def behind(rows: Tensor | None) -> Tensor:
        return constant(runs.values(), entry.local_norms(runs, rows, across=region.merged is not None))

    outputs = tight if region.merged is None else torch.minimum(tight, behind(rows))
    source = entry.source(outputs, product, varying=varying)
    term = opened(source, mask_rows=True)
    assert entry.box is not None
    linear = function.linear(*entry.box)
    remainder = function.remainder(region.center, *entry.box)
    if linear is None or varying is None or remainder is None or function.slopes != UNIT or _large(region.shape):
        return Closed(term, None, whole, norms, varying)
    bending = varying * (1 - linear)
    rest = torch.minimum(tight, behind(bending)) / 2
    box = (bending * remainder[0], bending * remainder[1])
    kept = Source(entry.node.index, torch.zeros_like(entry.center), box, rest, rest, product, bending, remainder=True)
    merged = {(entry.node.index, True): _bare(kept), **masked(runs, linear + bending / 2)}
    return Closed(term, merged, whole, norms, varying)


def close_global_liplt(entry: Entry) -> Closed:
    """Close by global norms, and by D = 1/2 everywhere with |r| <= |z' - z| / 2, as published; needs no box."""
    region, terms = entry.region, entry.region.terms
    whole = entry.global_norms(terms)
    lipschitz = constant(terms.values(), whole)
    product = product_of(terms.values(), whole)
    runs = terms if region.merged is None else region.merged
    if region.merged is not None:
        across = constant(runs.values(), entry.global_norms(runs, across=True))
        lipschitz = torch.minimum(lipschitz, across)
    source = entry.source(lipschitz, product)
    term = opened(source)
    if entry.function.slopes != UNIT or _large(region.shape):
        return Closed(term, None, whole, whole)
    rest = lipschitz / 2
    kept = Source(entry.node.index, torch.zeros_like(entry.center), None, rest, rest, product, remainder=True)
    half = scaling(region.shape, entry.center.new_full((1,) * entry.center.dim(), 0.5))
    halves = {key: Term(term.source, term.map.after(half)) for key, term in runs.items()}
    return Closed(term, {(entry.node.index, True): _bare(kept), **halves}, whole, whole)


def _bare(source: Source) -> Term:
    """Return the identity term of a source, without row norms: merged terms bound no neurons."""
    return Term(source, identity_map(source.center))


def _large(shape: tuple[int, ...]) -> bool:
    return math.prod(shape) > LARGEST_MERGED
