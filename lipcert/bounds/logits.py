"""Lipschitz bounds of the whole map from images to logits (appendix A.1)."""

from functools import reduce

import torch
from torch import Tensor

from lipcert.bounds.analysis import Analysis
from lipcert.bounds.region import SMALLEST_CONSTANT
from lipcert.norms.protocol import MapKey, Norms


def lipschitz_to_logits(analysis: Analysis, norms: Norms) -> Tensor:
    """Return a bound on the Lipschitz constant of the whole map to the logits, (B,) or (1,) (appendix A.1).

    The last map's norm is masked by its varying inputs where the bound masks, and capped by its global norm.

    Args:
        analysis: of a batch.
        norms: norm algorithm; upper bounds where the constant is to be one.
    """
    graph = analysis.graph
    totals = []
    for family, terms in enumerate(analysis.families):
        across = analysis.region.merged is not None and family == 0
        constants = []
        for number, term in enumerate(terms):
            name = f"..output..{number}{'..across' * across}"  # no module is called so
            key = MapKey(graph.key, term.source.index, len(graph.nodes) - 1, across, name)
            norm = None if term.map.per_image else norms.global_norm(key, term.map)
            if norm is None or term.source.varying is not None:
                local = norms.local_norms(key, term.map, None, term.source.varying)
                norm = local if norm is None else torch.minimum(local, norm)
            constants.append(term.source.lipschitz * norm)
        totals.append(reduce(torch.add, constants).clamp_min(SMALLEST_CONSTANT))
    return totals[0] if len(totals) == 1 else torch.minimum(*totals)
