"""Lower bounds of linear functions of a network's values, substituted from behind over balls cut by boxes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lipcert.recheck.ascent import ascended
from lipcert.recheck.bends import Axis, Bends, Box, Windows, bends_of
from lipcert.recheck.derivation import Derivation
from lipcert.recheck.program import ActivationStep, AffineStep, linear_map
from lipcert.recheck.reach import SLACK
from lipcert.recheck.rounding import ARITHMETIC, gamma
from lipcert.recheck.substitution import Known, Link
from lipcert.recheck.trust_region import Quadratic

FLOAT64 = ARITHMETIC[torch.float64]

LARGEST_CHUNK = 2**21
"""Entries of the largest value, over all rows that are worked on at a time."""


class Backward:
    """Backward bounds over the ball of a derivation, from whose balls and boxes they start."""

    def __init__(self, derived: Derivation) -> None:
        self.derived, self.program = derived, derived.program
        self.boxes = [(reach.lower, reach.upper) for reach in derived.reaches]
        self.differences: dict[int, Box] = {}
        sizes = [reach.magnitude + reach.center.abs() + reach.own.entries for reach in derived.reaches]
        shifts: dict[int, Tensor] = {}
        self.largest = max(size.numel() for size in sizes)
        self.chunk, operations = max(1, LARGEST_CHUNK // self.largest), 64 + 4 * self.largest
        for step in self.program.steps:
            if isinstance(step, AffineStep):
                before = sizes[step.source]
                shifts[step.target] = step.affine.whole(torch.zeros_like(before)).flatten()
                sizes[step.target] = sizes[step.target] + step.affine.magnitude(before)
                operations += step.affine.operations
        unit = gamma(operations, FLOAT64.unit)
        tiny = FLOAT64.tiny * operations**2 * (1 + max(float(size.max()) for size in sizes))
        self.activations = [step for step in self.program.steps if isinstance(step, ActivationStep)]
        bends = {step.target: self._bends(step) for step in self.activations}
        links = {step.target: self._link(step, bends[step.target].needed, unit) for step in self.activations}
        self.known = Known(derived, bends, links, sizes, shifts, unit, tiny)

    def bound(self, value: int, rows: Tensor, steps: int = 0, goal: Tensor | None = None) -> Tensor:
        """Return lower bounds over the ball of linear functions of a value, (R,).

        Args:
            value: its number.
            rows: their coefficients, (R, *shape of the value).
            steps: of ascents of slopes, from those of convex hulls on.
            goal: (R,), what is enough.
        """
        goal = rows.new_full((len(rows),), torch.inf) if goal is None else goal
        chunks = zip(rows.split(self.chunk), goal.split(self.chunk), strict=True)
        found = [ascended(self.known, value, chunk, steps, enough)[0] for chunk, enough in chunks]
        return torch.cat(found) if found else goal

    def refine(self, steps: int, most: int) -> None:
        """Shrink the intervals of all that bends, activation after activation, by backward bounds.

        Args:
            steps: of ascents of slopes.
            most: activations keep their intervals where those that bend times entries of the largest value are more.
        """
        for step in self.activations:
            bends, value = self.known.bends[step.target], step.source
            if isinstance(bends, Windows):
                continue
            if bends.axis is not None:
                pairs, half = bends.inner.bends, bends.inner.center.numel()
                if bends.outer is not None:
                    places = torch.cat([bends.outer.bends % half + shift for shift in (0, half)]).unique()
                    self.boxes[value] = self._refined(value, self.boxes[value], places, None, steps, most)
                box = (bends.inner.lower, bends.inner.upper)
                self.differences[value] = self._refined(value, box, pairs, bends.axis, steps, most)
            elif self.derived.reaches[value].rows.keys() != {0}:  # of a linear map of the image all is known
                self.boxes[value] = self._refined(value, self.boxes[value], bends.inner.bends, None, steps, most)
            self.known = replace(self.known, bends={**self.known.bends, step.target: self._bends(step)})

    def _refined(self, value: int, box: Box, places: Tensor, axis: Axis | None, steps: int, most: int) -> Box:
        """Return a box, cut at `places`, flat, to what entries, or pairs along an axis, can be."""
        if len(places) * self.largest > most:
            return box
        lower, upper = (each.flatten().clone() for each in box)
        for index in torch.arange(len(places)).split(self.chunk):
            rows = torch.zeros(len(index), self.known.sizes[value].numel(), dtype=torch.float64)
            here, every = places[index], torch.arange(len(index))
            if axis is None:
                rows[every, here] = 1.0
            else:
                rows[every, here], rows[every, here + len(axis[1])] = axis[0][here], axis[1][here]
            rows = rows.view(-1, *self.program.shapes[value])
            lower[here] = torch.maximum(lower[here], self.bound(value, rows, steps))
            upper[here] = torch.minimum(upper[here], -self.bound(value, -rows, steps))
        return lower.view_as(box[0]), upper.view_as(box[1])

    def _bends(self, step: ActivationStep) -> Bends | Windows:
        """Return an activation's clamps; inputs that matter move as little as its outputs, a source."""
        reach, source = self.derived.reaches[step.source], self.derived.sources[step.target]
        radius = source.inputs * self.derived.epsilon * (1 + SLACK)
        radius += reach.own.norm + 8 * FLOAT64.unit * float(reach.center.norm())
        box, difference = self.boxes[step.source], self.differences.get(step.source)
        return bends_of(step.activation, box, reach.center, radius, difference)

    def _link(self, step: ActivationStep, needed: Tensor, unit: float) -> Link | None:
        """Return what inputs that matter are a linear map of; None where that is more than one source, or unknown."""
        reach = self.derived.reaches[step.source]
        norm = self.derived.masked_norm(reach, self.derived.sources[step.target].inputs)
        if norm is None:
            return None
        (source,) = reach.rows
        from_image = linear_map(self.program, 0, step.source, {}) if source == 0 else None
        if from_image is None:
            return Link(source, norm, None)
        return Link(source, norm, Quadratic(from_image, needed, norm, unit))
