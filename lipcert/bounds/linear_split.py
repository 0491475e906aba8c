"""`linear_split` (appendix A.2): neurons that are linear over the region are kept apart from those that bend."""

from dataclasses import replace

from torch import Tensor

from lipcert.bounds.product import Closed, Entry, constant, varying_outputs
from lipcert.bounds.region import Term, Terms, opened
from lipcert.graph import scaling


def close_linear_split(entry: Entry) -> Closed:
    """Multiply constants of bending neurons with their norms; linear ones pass as masked linear maps."""
    function, varying = entry.node.function, varying_outputs(entry)
    assert entry.box is not None
    linear = function.linear(*entry.box)
    bending = varying
    if linear is not None:
        bending = (1 - linear) if varying is None else varying * (1 - linear)
    norms = entry.local_norms(entry.longest, bending if function.slopes is not None else None)
    source = replace(entry.source, lipschitz=constant(entry.longest, norms), varying=bending)
    merged = {(entry.node.index, False): opened(source)}
    if linear is not None:
        merged |= masked(entry.longest, linear)
    return Closed(source, norms, merged, varying, own=False)


def masked(terms: Terms, mask: Tensor) -> dict[tuple[int, bool], Term]:
    """Return the terms with every output multiplied with `mask`, (B, *shape)."""
    scale = scaling(tuple(mask.shape[1:]), mask, per_image=True)
    return {key: Term(term.source, term.map.after(scale)) for key, term in terms.items()}
