"""The values of a network over an l2 ball around one image, derived anew.

Every change of a value is a sum over *sources*: the image, and outputs of earlier activations. Two families of maps
lead from a source to a value. In the tight family activations in between are cut, so that only direct predecessors
count and a source changes by at most epsilon T. In the decomposed family each activation is a linear part D plus a
remainder (LipLT, Fazlyab et al. 2023); linear parts are kept in the map, and a source is a remainder of at most
epsilon R.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipcert.recheck.activations import Masks, masks, output_range, remainder_range
from lipcert.recheck.norms import Norms
from lipcert.recheck.program import ActivationStep, AddStep, AffineStep, LinearMap, Program, linear_map
from lipcert.recheck.reach import SLACK, Reach, Rows, Source, widened
from lipcert.recheck.rounding import (
    ARITHMETIC,
    Ball,
    after_activation,
    after_addition,
    after_affine,
    after_steep,
    no_error,
)


@dataclass(eq=False)
class Derivation:
    """One pass through a program around one image; `reaches` are those of all values, `logits` the last.

    Args:
        program: the network.
        image: (*image shape).
        epsilon: radius of the ball in pixels, >= 0.
        clip_input: intersect the ball with [0, 1].
        decomposed: use the decomposed family beside the tight one.
        norms: computes spectral norms.

    Raises:
        ValueError: where the image does not fit, or leaves [0, 1] with `clip_input`.
        ArithmeticError: where a value may overflow or a norm cannot be bounded.
    """

    program: Program
    image: Tensor
    epsilon: float
    clip_input: bool
    decomposed: bool
    norms: Norms
    sources: dict[int, Source] = field(default_factory=dict)
    slopes: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with torch.no_grad():
            reaches = [self._image()]
            for step in self.program.steps:
                if isinstance(step, AffineStep):
                    reaches.append(self._affine(step, reaches[step.source]))
                elif isinstance(step, AddStep):
                    reaches.append(self._add(reaches[step.first], reaches[step.second]))
                else:
                    reaches[step.source] = self._written_out(step.source, reaches[step.source])
                    reaches.append(self._activation(step, reaches[step.source]))
        self.reaches = reaches
        self.logits = reaches[self.program.output]

    def _image(self) -> Reach:
        center = self.image.double()[None]
        if tuple(center.shape[1:]) != self.program.shapes[0]:
            raise ValueError(f"Expected an image {self.program.shapes[0]}, got {tuple(center.shape[1:])}.")
        radius = self.epsilon * (1 + SLACK)
        lower, upper = center - radius, center + radius
        if self.clip_input:
            if not bool(((center >= 0) & (center <= 1)).all()):
                raise ValueError("Expected pixels in [0, 1].")
            lower, upper = lower.clamp(min=0), upper.clamp(max=1)
        ones = torch.ones_like(center)
        change = (lower - center, upper - center)
        self.sources[0] = Source(1.0, 1.0, ones, ones, change, change)
        return Reach(center, lower, upper, no_error(center), no_error(center), {0: Rows(ones, True, True)})

    def _affine(self, step: AffineStep, before: Reach) -> Reach:
        affine = step.affine
        middle, half = (before.lower + before.upper) / 2, (before.upper - before.lower) / 2
        middle, half = affine.whole(middle), affine.absolute(half)
        row_norms = affine.squared(torch.ones_like(before.center)).sqrt()
        norm = self.norms.affine(step, self.program) if affine.operations else 1.0

        rows = {source: rows.after(affine) for source, rows in before.rows.items()}
        moved = self._moved(rows) + affine.absolute(before.own.entries)
        products = torch.minimum(affine.magnitude(before.magnitude), affine.magnitude(before.center.abs()) + moved)
        sizes = (affine, products, row_norms, norm)
        own = after_affine(before.own, *sizes, ARITHMETIC[torch.float64], before.magnitude)
        half = half * (1 + SLACK) + own.entries
        center, outputs = affine.whole(before.center), middle.abs() + half
        arithmetic, ball = ARITHMETIC[self.program.dtype], self._ball(step, before, center)
        executed = after_affine(before.executed, *sizes, arithmetic, before.magnitude, outputs, ball)
        return Reach(center, middle - half, middle + half, executed, own, rows).within(self._moved(rows))

    def _ball(self, step: AffineStep, before: Reach, center: Tensor) -> Ball | None:
        """Return the ball around the inputs of a layer, `center`: its outputs there; None where it is not known."""
        if not before.executed.at_source or not step.affine.operations:
            return None
        radius = sum(self.sources[source].tight for source in before.rows) * self.epsilon * (1 + SLACK)
        products, off = step.affine.magnitude(before.center.abs() + before.own.entries), step.affine.absolute
        return Ball(radius, products, center.abs() + off(before.own.entries), self.norms.absolute(step, self.program))

    def _add(self, first: Reach, second: Reach) -> Reach:
        magnitude = first.magnitude + second.magnitude
        own = after_addition(first.own, second.own, magnitude, ARITHMETIC[torch.float64])
        rows = dict(first.rows)
        for source, other in second.rows.items():
            rows[source] = Rows(rows[source].norms + other.norms, False, False) if source in rows else other
        lower, upper = first.lower + second.lower - own.entries, first.upper + second.upper + own.entries
        executed = after_addition(first.executed, second.executed, magnitude, ARITHMETIC[self.program.dtype])
        return Reach(first.center + second.center, lower, upper, executed, own, rows).within(self._moved(rows))

    def _written_out(self, value: int, before: Reach) -> Reach:
        """Cut a box with exact row norms of both families, where they are cheap and not there already."""
        if not all(rows.exact for rows in before.rows.values()):
            tight = [(source, self.sources[source]) for source in before.rows]
            moves = [(linear_map(self.program, s, value, {}), each.varying, each.tight) for s, each in tight]
            before = self._cut(before, moves)
        if self.decomposed and len(self.sources) > 1:
            moves = [
                (linear_map(self.program, source, value, self.slopes), each.unstable, each.decomposed)
                for source, each in self.sources.items()
            ]
            before = self._cut(before, moves)
        return before

    def _cut(self, reach: Reach, moves: list[tuple[LinearMap | None, Tensor, float]]) -> Reach:
        """Cut a box with the sum of what maps (J, columns, radius / epsilon) can move; as it is if one is too large."""
        change = torch.zeros_like(reach.center)
        for there, columns, radius in moves:
            if there is not None and radius > 0:
                norms = self.norms.row_norms(there, columns)
                if norms is None:
                    return reach
                change += norms * (radius * self.epsilon * (1 + SLACK))
        return reach.within(change)

    def _moved(self, rows: dict[int, Rows]) -> Tensor:
        """Return how far each entry can move; for rows behind a layer W, even |W| times the moduli of what moves."""
        moves = [each.norms * (self.sources[source].tight * self.epsilon) for source, each in rows.items()]
        return torch.stack(moves).sum(dim=0) * (1 + SLACK)

    def _activation(self, step: ActivationStep, before: Reach) -> Reach:
        activation, lower, upper = step.activation, before.lower, before.upper
        mask = masks(activation, lower, upper)
        if activation.steep:
            return self._steep(step, before, mask)
        tight, decomposed = self._constants(step.source, before, mask)
        if mask.slope is not None:
            self.slopes[step.target] = mask.slope
        own = before.own.entries
        self.sources[step.target] = Source(
            tight,
            decomposed,
            mask.varying,
            mask.unstable,
            widened(output_range(activation, lower, upper, before.center), own),
            widened(remainder_range(activation, mask.slope, lower, upper, before.center), 2 * own),
        )
        if activation.operations:
            return self._behind(step, before, mask)
        return Reach(
            activation(before.center),
            activation(lower),
            activation(upper),
            after_activation(before.executed, activation, lower, upper, mask, self.masked_norm(before, tight)),
            after_activation(before.own, activation, lower, upper, mask),
            {step.target: Rows(mask.varying, True, True)},
        )

    def _steep(self, step: ActivationStep, before: Reach, mask: Masks) -> Reach:
        """Return what is known behind an activation that enlarges, rounds, or has other outputs than inputs."""
        behind, (tight, decomposed) = self._behind(step, before, mask), self._steep_constants(step, before, mask)
        change = output_range(step.activation, before.lower, before.upper, before.center)
        change = widened(change, 2 * behind.own.entries)
        inputs = 0.0 if self.epsilon == 0 else self._sum_tight(step.source, before, mask.needed)
        self.sources[step.target] = Source(tight, decomposed, mask.varying, mask.varying, change, change, inputs)
        return behind

    def _behind(self, step: ActivationStep, before: Reach, mask: Masks) -> Reach:
        """Return box and errors behind an activation that may round."""
        activation, lower, upper = step.activation, before.lower, before.upper
        own = after_steep(before.own, activation, lower, upper, mask, ARITHMETIC[torch.float64])
        executed = after_steep(before.executed, activation, lower, upper, mask, ARITHMETIC[self.program.dtype])
        least, greatest = activation.box(lower, upper)
        rows = {step.target: Rows(mask.varying, True, True)}
        center = activation(before.center)
        return Reach(center, least - own.entries, greatest + own.entries, executed, own, rows)

    def _steep_constants(self, step: ActivationStep, before: Reach, mask: Masks) -> tuple[float, float]:
        """Return T and R of such an activation: by its slopes over the box where it has some, by its constant."""
        if self.epsilon == 0:
            return 0.0, 0.0
        constant, gains = step.activation.constant, step.activation.gains(before.lower, before.upper)
        tight = constant * self._sum_tight(step.source, before, mask.needed)
        if gains is not None:
            slopes, everything = {step.target: gains}, torch.ones_like(gains)
            steep = [
                self._norm(linear_map(self.program, source, step.target, slopes), everything, known.varying)
                * known.tight
                for source, known in ((source, self.sources[source]) for source in before.rows)
            ]
            tight = min(tight, sum(steep))
        if not self.decomposed:
            return tight, torch.inf
        return tight, constant * self._sum_decomposed(step.source, mask.needed, tight / constant)

    def masked_norm(self, before: Reach, tight: float) -> float | None:
        """Return the masked norm from the only source before an activation, of which T is `tight`; None for others."""
        sources = [self.sources[source].tight for source in before.rows]
        if self.decomposed or self.epsilon == 0 or len(sources) != 1 or sources[0] == 0:
            return None
        return tight / sources[0] * (1 + SLACK)

    def _constants(self, value: int, before: Reach, mask: Masks) -> tuple[float, float]:
        """Return T and R of the activation fed by `value`; R is infinite without the decomposed family."""
        if self.epsilon == 0:
            return 0.0, 0.0
        tight = self._sum_tight(value, before, mask.needed)
        if not self.decomposed:
            return tight, torch.inf
        remainder = self._sum_tight(value, before, mask.needed_unstable)
        remainder = self._sum_decomposed(value, mask.needed_unstable, remainder)
        return self._sum_decomposed(value, mask.needed, tight), mask.remainder * remainder

    def _sum_tight(self, value: int, before: Reach, rows: Tensor) -> float:
        return sum(
            min(
                self.norms.whole(self.program, source, value).upper,
                self._norm(linear_map(self.program, source, value, {}), rows, self.sources[source].varying),
            )
            * self.sources[source].tight
            for source in before.rows
        )

    def _sum_decomposed(self, value: int, rows: Tensor, cap: float) -> float:
        """Return the sum over all sources, or `cap` as soon as that is passed."""
        total = 0.0
        for number, source in self.sources.items():
            if source.decomposed > 0:
                there = linear_map(self.program, number, value, self.slopes)
                total += self._norm(there, rows, source.unstable) * source.decomposed
            if total >= cap:
                return cap
        return total

    def _norm(self, there: LinearMap | None, rows: Tensor, columns: Tensor) -> float:
        return 0.0 if there is None else self.norms.bracket(there, rows, columns).upper
