"""`linear_split` (appendix A.2): neurons that are linear over the region are kept apart from those that bend."""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.bounds.activation import Closed, Entry, box_constant, constant, product_of
from lipcert.bounds.product import varying_outputs
from lipcert.bounds.region import Term, Terms, opened
from lipcert.graph.scaling import scaling


def close_linear_split(entry: Entry) -> Closed:
    """Multiply constants of bending neurons with their norms; linear ones pass as masked linear maps."""
    region, function = entry.region, entry.function
    terms = region.terms if region.merged is None else region.merged
    whole = entry.global_norms(region.terms)
    varying = varying_outputs(entry)
    assert entry.box is not None
    linear = function.linear(*entry.box)
    linear = torch.zeros_like(entry.center) if linear is None else linear
    bending = (1 - linear) if varying is None else varying * (1 - linear)
    rows = bending if function.slopes is not None else None
    norms = entry.local_norms(terms, rows, across=region.merged is not None)
    source = entry.source(
        constant(terms.values(), norms),
        product_of(region.terms.values(), whole),
        box_lipschitz=box_constant(region.terms.values(), whole),
        varying=bending,
    )
    merged = {(entry.node.index, False): opened(source), **masked(terms, linear)}
    return Closed(opened(source), merged, whole, norms, varying)


def masked(terms: Terms, mask: Tensor) -> dict[tuple[int, bool], Term]:
    """Return the terms with every output multiplied with `mask`, (B, *shape)."""
    scale = scaling(tuple(mask.shape[1:]), mask, per_image=True)
    return {key: Term(term.source, term.map.after(scale)) for key, term in terms.items()}
