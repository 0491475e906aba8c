"""Recorded norms of layers against norms computed anew."""

from __future__ import annotations

from collections.abc import Mapping

from lipcert.recheck.linear import linear_map
from lipcert.recheck.norms import Norms
from lipcert.recheck.program import ActivationStep, Program

TOLERANCE = 1e-9
"""Relative tolerance: a recorded upper bound may be that much below the norm, for rounding."""


def closed_maps(program: Program) -> dict[str, tuple[int, int]]:
    """Return for each activation's name the (source, value) its map lies between, where only one source feeds it.

    The map onto the logits goes by the name of the last layer.
    """
    sources = [0, *(step.target for step in program.steps if isinstance(step, ActivationStep))]
    ends = {step.activation.name: step.source for step in program.steps if isinstance(step, ActivationStep)}
    last = program.steps[-1] if program.steps else None
    if last is not None and hasattr(last, "affine"):
        ends[last.affine.name] = program.output
    feeding = {name: [s for s in sources if linear_map(program, s, end, {}) is not None] for name, end in ends.items()}
    return {name: (found[0], ends[name]) for name, found in feeding.items() if len(found) == 1}


def contradicted_norms(program: Program, uppers: Mapping[str, float], norms: Norms) -> list[str]:
    """Return a sentence for each recorded upper bound that lies below what a vector shows the norm to be."""
    found = []
    for name, (start, end) in closed_maps(program).items():
        if name in uppers:
            shown = norms.whole(program, start, end).lower
            if shown > uppers[name] * (1 + TOLERANCE):
                found.append(f"the norm of {name!r} is {shown:.9g} at least, above the recorded {uppers[name]:.9g}")
    return found
