"""What a record says of global norms, against norms computed anew: brackets, Lipschitz constants, how many may fail."""

from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from lipcert.recheck.consistency import place
from lipcert.recheck.norms import Norms
from lipcert.recheck.program import ActivationStep, AffineStep, LinearMap, Program, linear_map
from lipcert.recheck.spectral import Bracket
from lipcert.records import Record

TOLERANCE = 1e-9
"""Relative tolerance of brackets, for rounding."""

LIPSCHITZ_TOLERANCE = 1e-6
"""Relative tolerance of products of norms."""

LOOSE = 1.5
"""No recorded Lipschitz constant is further above the product of norms than this: Lanczos brackets are closer."""

EXACTLY = "donot_use_mm_for_euclid_dist"
"""How distances are computed without cancellation."""

CERTAIN_SIDE = 128
"""Certifiers bound the norm of a map with certainty where one of its sides has no more entries."""


@dataclass(frozen=True, eq=False)
class GlobalNorms:
    """The linear maps of a program between its activations, and their norms whatever the image."""

    program: Program
    norms: Norms

    @cached_property
    def feeding(self) -> dict[int, dict[int, LinearMap]]:
        """By value that an activation is applied to, or the logits: the maps from sources that lead there."""
        activations = [step for step in self.program.steps if isinstance(step, ActivationStep)]
        sources = [0, *(step.target for step in activations)]
        ends = [*(step.source for step in activations), self.program.output]
        found = {end: {source: linear_map(self.program, source, end, {}) for source in sources} for end in ends}
        return {end: {source: each for source, each in maps.items() if each is not None} for end, maps in found.items()}

    @cached_property
    def closed(self) -> dict[str, LinearMap]:
        """The map that ends at each activation, by its name, where only one does."""
        activations = [step for step in self.program.steps if isinstance(step, ActivationStep)]
        maps = [(step.activation.name, [*self.feeding[step.source].values()]) for step in activations]
        return {name: found[0] for name, found in maps if len(found) == 1}

    @cached_property
    def pair_lengths(self) -> Tensor:
        """Lengths of the gradients of z_j - z_y by what feeds the logits z, summed over it, (classes, classes)."""
        unit = torch.eye(*self.program.shapes[self.program.output] * 2, dtype=torch.float64)
        rows = [each.adjoint(unit).flatten(1) for each in self.feeding[self.program.output].values()]
        return sum((torch.cdist(each, each, compute_mode=EXACTLY) for each in rows), torch.zeros_like(unit))

    def bracket(self, there: LinearMap) -> Bracket:
        """Bracket the norm of one of the maps."""
        return self.norms.whole(self.program, there.start, there.end)

    @cached_property
    def constant(self) -> Bracket:
        """Bracket of the largest Lipschitz constant that global norms give an activation before the logits."""
        known = {0: Bracket(1.0, 1.0)}
        for step in self.program.steps:
            if isinstance(step, ActivationStep):
                terms = [(self.bracket(each), known[source]) for source, each in self.feeding[step.source].items()]
                known[step.target] = Bracket(
                    step.activation.constant * sum(norm.lower * there.lower for norm, there in terms),
                    step.activation.constant * sum(norm.upper * there.upper for norm, there in terms),
                )
        last = [known[source] for source in self.feeding[self.program.output]] or [Bracket(0.0, 0.0)]
        return Bracket(max(each.lower for each in last), max(each.upper for each in last))


def contradicted_norms(norms: GlobalNorms, record: Record) -> list[str]:
    """Return what contradicts the network's norms in a record, a sentence each."""
    return [*_brackets(norms, record), *_lipschitz(norms, record), *_count(norms, record)]


def _brackets(norms: GlobalNorms, record: Record) -> list[str]:
    said, closed = record.contents.norms, norms.closed
    if said.keys() != closed.keys():
        return [f"norms are of {', '.join(said) or 'no map'}, those of the network of {', '.join(closed) or 'no map'}"]
    found = []
    for name, there in closed.items():
        lower, upper = norms.bracket(there)
        if not said[name].upper >= lower * (1 - TOLERANCE):
            found.append(f"norms.{name}.upper {said[name].upper:.9g} is below the norm, {lower:.9g} at least")
        if not 0 <= said[name].lower <= upper * (1 + TOLERANCE):
            found.append(
                f"norms.{name}.lower {said[name].lower:.9g} is not between 0 and the norm, {upper:.9g} at most"
            )
    return found


def _lipschitz(norms: GlobalNorms, record: Record) -> list[str]:
    """Local constants are never above the product of global norms, which a first stage `global` takes."""
    lower, upper = norms.constant
    first = record.contents.stages[0] if record.contents.stages else None
    found = []
    for number, row in enumerate(record.rows):
        if not row.lipschitz <= upper * LOOSE:
            found.append(
                f"{place(record, number)}lipschitz {row.lipschitz:.9g} is above the product of norms, {upper:.9g}"
            )
        taken = first is not None and first.bound == "global" and row.stage == first.name
        if taken and row.lipschitz < lower * (1 - LIPSCHITZ_TOLERANCE):
            found.append(
                f"{place(record, number)}lipschitz {row.lipschitz:.9g} is below the product of norms, {lower:.9g}, "
                f"which stage {row.stage!r} takes"
            )
    return found


def _count(norms: GlobalNorms, record: Record) -> list[str]:
    """Each map without a small side takes one norm, each image with a constant below the product another."""
    uncertain = {name: each for name, each in norms.closed.items() if _uncertain(each)}
    least = len({(each.start, each.end) for each in uncertain.values()})
    if least == sum(isinstance(step, ActivationStep) for step in norms.program.steps):
        below = norms.constant.lower * (1 - LIPSCHITZ_TOLERANCE)
        least += len({row.index for row in record.rows if row.lipschitz < below})
    said = record.contents.failure_probability.norms
    return [f"failure_probability.norms is {said}, but the stages bounded {least} at least"] if said < least else []


def _uncertain(there: LinearMap) -> bool:
    """Tell whether certifiers bound a norm with high probability only."""
    monomial = all(isinstance(step, AffineStep) and step.affine.monomial for step in there.steps)
    return min(prod(there.start_shape), prod(there.end_shape)) > CERTAIN_SIDE and not monomial
