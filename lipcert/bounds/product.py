"""Products of norms between activations: `global`, `local` (the paper's) and `tight`."""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.bounds.activation import Closed, Entry, box_constant, constant, product_of
from lipcert.bounds.region import Terms, opened


def close_global(entry: Entry) -> Closed:
    """Multiply constants with global norms (BCP, GloRo)."""
    terms = entry.region.terms
    norms = entry.global_norms(terms)
    source = entry.source(constant(terms.values(), norms), product_of(terms.values(), norms))
    return Closed(opened(source), None, norms, norms)


def close_local(entry: Entry) -> Closed:
    """Multiply constants with local norms; balls that bound neurons keep to global norms (Theorem 1).

    As published, rows are masked for elementwise activations alone.
    """
    terms, function = entry.region.terms, entry.function
    whole = entry.global_norms(terms)
    varying = varying_outputs(entry)
    rows = varying if function.slopes is not None else None
    norms = capped_local_norms(entry, terms, whole, rows)
    source = entry.source(
        constant(terms.values(), norms),
        product_of(terms.values(), whole),
        box_lipschitz=box_constant(terms.values(), whole),
        varying=varying,
    )
    return Closed(opened(source), None, whole, norms, varying)


def close_tight(entry: Entry) -> Closed:
    """Multiply constants with local norms, those of balls that bound neurons too; masks know the order of pairs."""
    terms = entry.region.terms
    whole, mask_rows = entry.global_norms(terms), entry.node.name not in entry.plan.rows
    varying = varying_outputs(entry, mask_rows)
    norms = capped_local_norms(entry, terms, whole, needed_inputs(entry, varying))
    product = product_of(terms.values(), whole)
    source = entry.source(constant(terms.values(), norms), product, varying=varying)
    return Closed(opened(source, mask_rows), None, whole, norms, varying)


def varying_outputs(entry: Entry, mask_rows: bool = False) -> Tensor | None:
    """Return which outputs vary, (B, *shape), None for all, and where the plan skips whatever would leave them out.

    `mask_rows`: row norms would.
    """
    assert entry.box is not None  # the bounds that mask are given boxes
    skipped = entry.plan.masks.issuperset((entry.node.name, *entry.graph.followers[entry.node.index]))
    return None if skipped and not mask_rows else entry.function.varying(*entry.box)


def needed_inputs(entry: Entry, varying: Tensor | None) -> Tensor | None:
    """Return which inputs any varying output depends on, (B, *shape), None for all."""
    assert entry.box is not None
    return varying if entry.function.slopes is not None else entry.function.needed(*entry.box)


def capped_local_norms(entry: Entry, terms: Terms, whole: list[Tensor], rows: Tensor | None) -> list[Tensor]:
    """Return local norms, (B,) each, never above the global ones; the latter alone where the plan skips masks."""
    if entry.node.name in entry.plan.masks and not any(term.map.per_image for term in terms.values()):
        return whole
    images = entry.center.shape[0]
    pairs = zip(entry.local_norms(terms, rows), whole, strict=True)
    return [torch.minimum(norm, cap).expand(images) for norm, cap in pairs]
