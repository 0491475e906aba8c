"""Products of norms between activations that know what varies: `local` (the paper's) and `tight`."""

from dataclasses import replace

import torch
from torch import Tensor

from lipcert.bounds.activation import Closed, Entry
from lipcert.bounds.region import constant


def close_local(entry: Entry) -> Closed:
    """Multiply constants with local norms; balls that bound neurons keep to global norms (Theorem 1).

    As published, rows are masked for elementwise activations alone.
    """
    terms, varying = entry.region.terms, varying_outputs(entry)
    norms = capped_local_norms(entry, varying if entry.node.function.slopes is not None else None)
    source = replace(entry.source, lipschitz=constant(terms, norms), varying=varying)
    return Closed(source, norms, mask=varying)


def close_tight(entry: Entry) -> Closed:
    """Multiply constants with local norms, those of balls that bound neurons too; masks know the order of pairs."""
    mask_rows = entry.node.name not in entry.plan.rows
    varying = varying_outputs(entry, mask_rows)
    norms = capped_local_norms(entry, needed_inputs(entry, varying))
    lipschitz = constant(entry.region.terms, norms)
    source = replace(entry.source, lipschitz=lipschitz, box_lipschitz=lipschitz, varying=varying)
    return Closed(source, norms, mask=varying, mask_rows=mask_rows)


def varying_outputs(entry: Entry, mask_rows: bool = False) -> Tensor | None:
    """Return which outputs vary, (B, *shape), None for all, and where the plan skips whatever would leave them out.

    `mask_rows`: row norms would.
    """
    if entry.plan.skips_varying(entry.node, entry.graph) and not mask_rows:
        return None
    assert entry.box is not None  # the bounds that mask are given boxes
    return entry.node.function.varying(*entry.box)


def needed_inputs(entry: Entry, varying: Tensor | None) -> Tensor | None:
    """Return which inputs any varying output depends on, (B, *shape), None for all."""
    assert entry.box is not None
    return varying if entry.node.function.slopes is not None else entry.node.function.needed(*entry.box)


def capped_local_norms(entry: Entry, rows: Tensor | None) -> list[Tensor]:
    """Return local norms of the region's terms, (B,) each, never above the global ones.

    The latter alone where the plan skips masks.
    """
    terms = entry.region.terms
    if entry.node.name in entry.plan.masks and not any(term.map.per_image for term in terms.values()):
        return entry.global_norms
    images = entry.source.center.shape[0]
    pairs = zip(entry.local_norms(terms, rows), entry.global_norms, strict=True)
    return [torch.minimum(norm, cap).expand(images) for norm, cap in pairs]
