"""Lower bounds of linear functions of a network's values, substituted from behind over balls cut by boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.recheck.ball_box import Choice, Clamp
from lipcert.recheck.bends import Axis, Bends, Box, Choices, Windows, bends_of
from lipcert.recheck.derivation import Derivation
from lipcert.recheck.program import ActivationStep, AddStep, AffineStep, linear_map, single_map
from lipcert.recheck.reach import SLACK, maximum_over
from lipcert.recheck.rounding import ARITHMETIC, gamma
from lipcert.recheck.trust_region import Quadratic

FLOAT64 = ARITHMETIC[torch.float64]

LARGEST_CHUNK = 2**21
"""Entries of the largest value, over all rows that are worked on at a time."""

LEARNING_RATE = 0.1
"""Of Adam on slopes; it falls linearly to a tenth."""

RANGE = (-2.0, 2.0)
"""Slopes are kept here: with a ball the best ones may lie outside [0, 1]."""

LEAST_ROOM = 1e-3
"""Room that ascents start from where clamps chose less."""

STOP_ROUNDS = 24
"""Halvings for the multiplier where rows end in a ball cut by a box."""

RISE_ROUNDS = 3, 12
"""Of the search for what bounds the rise of rows and curvatures at the image: on the way, and for what is proved."""


@dataclass(frozen=True, eq=False)
class Link:
    """Inputs z of an activation that matter: |z - z(x)| <= norm |h - h(x)|, h the value `source`.

    `quadratic`: the map from h to z, where h is the image.
    """

    source: int
    norm: float
    quadratic: Quadratic | None


class Backward:
    """Backward bounds over the ball of a derivation, from whose balls and boxes they start."""

    def __init__(self, derived: Derivation) -> None:
        self.derived, self.program = derived, derived.program
        self.boxes = [(reach.lower, reach.upper) for reach in derived.reaches]
        self.differences: dict[int, Box] = {}
        self.sizes = [reach.magnitude + reach.center.abs() + reach.own.entries for reach in derived.reaches]
        self.shifts: dict[int, Tensor] = {}
        self.largest = max(size.numel() for size in self.sizes)
        self.chunk, operations = max(1, LARGEST_CHUNK // self.largest), 64 + 4 * self.largest
        for step in self.program.steps:
            if isinstance(step, AffineStep):
                before = self.sizes[step.source]
                self.shifts[step.target] = step.affine.whole(torch.zeros_like(before)).flatten()
                self.sizes[step.target] = self.sizes[step.target] + step.affine.magnitude(before)
                operations += step.affine.operations
        self.unit = gamma(operations, FLOAT64.unit)
        self.tiny = FLOAT64.tiny * operations**2 * (1 + max(float(size.max()) for size in self.sizes))
        self.activations = [step for step in self.program.steps if isinstance(step, ActivationStep)]
        self.bends = {step.target: self._bends(step) for step in self.activations}
        self.links = {step.target: self._link(step) for step in self.activations}

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
        found = [self._ascended(value, chunk, steps, enough) for chunk, enough in chunks]
        return torch.cat(found) if found else goal

    def refine(self, steps: int, most: int) -> None:
        """Shrink the intervals of all that bends, activation after activation, by backward bounds.

        Args:
            steps: of ascents of slopes.
            most: activations keep their intervals where those that bend times entries of the largest value are more.
        """
        for step in self.activations:
            bends, value = self.bends[step.target], step.source
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
            self.bends[step.target] = self._bends(step)

    def _refined(self, value: int, box: Box, places: Tensor, axis: Axis | None, steps: int, most: int) -> Box:
        """Return a box, cut at `places`, flat, to what entries, or pairs along an axis, can be."""
        if len(places) * self.largest > most:
            return box
        lower, upper = (each.flatten().clone() for each in box)
        for index in torch.arange(len(places)).split(self.chunk):
            rows = torch.zeros(len(index), self.sizes[value].numel(), dtype=torch.float64)
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

    def _link(self, step: ActivationStep) -> Link | None:
        """Return what inputs that matter are a linear map of; None where that is more than one source, or unknown."""
        reach = self.derived.reaches[step.source]
        norm = self.derived.masked_norm(reach, self.derived.sources[step.target].inputs)
        if norm is None:
            return None
        (source,) = reach.rows
        from_image = linear_map(self.program, 0, step.source, {}) if source == 0 else None
        if from_image is None:
            return Link(source, norm, None)
        needed = self.bends[step.target].needed
        return Link(source, norm, Quadratic(from_image, needed, norm, self.unit))

    def _ascended(self, value: int, rows: Tensor, steps: int, goal: Tensor) -> Tensor:
        """Return the best bounds met on an ascent of slopes and curvatures, (R,); -infinity for what is no number."""
        rooms: dict[Clamp, Tensor] = {}
        with torch.no_grad():
            best, _ = self._substituted(value, rows, {}, rooms)
        if steps == 0 or bool((best > goal).all()):
            return best
        choices = {
            clamp: Choice(
                clamp.hull.repeat(len(rows), 1, 1).requires_grad_(), room.clamp(min=LEAST_ROOM).log().requires_grad_()
            )
            for clamp, room in rooms.items()
            if len(clamp.index)
        }
        if not choices:
            return best
        free = [each for choice in choices.values() for each in (choice.slopes, choice.logarithm)]
        optimizer = torch.optim.Adam(free, LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, steps)
        for _ in range(steps):
            with torch.enable_grad():
                found, ascended = self._substituted(value, rows, choices, rooms)
            best = torch.maximum(best, found)
            if not ascended.requires_grad or bool((best > goal).all()):
                break
            optimizer.zero_grad()
            (-ascended.sum()).backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                for choice in choices.values():
                    choice.slopes.clamp_(*RANGE)
        return best

    def _substituted(
        self, value: int, rows: Tensor, choices: Choices, chosen: dict[Clamp, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return lower bounds of rows, the best of all places where they may end, and those at the image, (R,).

        The former are proved, the latter differentiable. `chosen`: takes the room of each clamp.
        """
        pending, constant, slack = {value: rows}, rows.new_zeros(len(rows)), rows.new_full((len(rows),), self.tiny)
        best, none = torch.full_like(constant, -torch.inf), torch.zeros_like(constant)
        curvatures: dict[int, Tensor] = {}
        parts: list[tuple[Quadratic, Tensor]] = []
        for step in reversed(self.program.steps):
            here = pending.pop(step.target, None)
            if here is None:
                continue
            if step.target in self.derived.sources and pending.keys() <= self.derived.sources.keys():
                best = torch.maximum(best, self._ended({**pending, step.target: here}, curvatures, constant - slack))
            slack += self.unit * (here.detach().flatten(1).abs() @ self.sizes[step.target].flatten())
            sources: tuple[int, ...] = (step.source,) if not isinstance(step, AddStep) else (step.first, step.second)
            if isinstance(step, AffineStep):
                constant = constant + here.flatten(1) @ self.shifts[step.target]
                here = single_map(step, self.program).adjoint(here)
            elif isinstance(step, ActivationStep):
                arriving = curvatures.pop(step.target, none)
                here, relaxed = self.bends[step.target].relax(here, arriving, choices, chosen)
                here = here.view(-1, *self.program.shapes[step.source])
                constant, curvature = constant + relaxed.constant, relaxed.curvature
                slack += self.unit * relaxed.size
                slack += (curvature + arriving).detach() * self._doubt(step)
                link = self.links[step.target]
                if link is None:
                    constant = constant - self.bends[step.target].price(curvature)
                else:
                    passed = curvature * (link.norm**2 * (1 + SLACK) ** 4)
                    curvatures[link.source] = curvatures.get(link.source, none) + passed
                    if link.quadratic is not None:
                        parts.append((link.quadratic, curvature * (1 + SLACK) ** 2))
            slack += self.unit * constant.detach().abs()
            for source in sources:
                pending[source] = pending[source] + here if source in pending else here
        alone = parts[0] if len(parts) == 1 and curvatures.keys() == {0} else None
        best = torch.maximum(best, self._ended(pending, curvatures, constant - slack, alone))
        for source, row in pending.items():
            constant = constant + row.flatten(1) @ self.derived.reaches[source].center.flatten()
        row, radius = pending.get(0, rows.new_zeros(len(rows), 1)), self.derived.epsilon
        if alone is not None:
            return best, constant - alone[0].rise(row, alone[1], radius, RISE_ROUNDS[0])
        return best, constant - radius * row.flatten(1).norm(dim=1) - sum(curvatures.values()) * radius**2 / 2

    def _doubt(self, step: ActivationStep) -> float:
        """Return what a curvature of 1 before and behind clamps may cost more as the center is known with errors."""
        return 2 * (1 + 1 / SLACK) * self.derived.reaches[step.source].own.norm ** 2

    def _ended(
        self,
        pending: Mapping[int, Tensor],
        curvatures: Mapping[int, Tensor],
        least: Tensor,
        alone: tuple[Quadratic, Tensor] | None = None,
    ) -> Tensor:
        """Return what rows of sources are at least above `least`, (R,); -infinity for what is not a number.

        `alone`: all curvature at the image, where it is about one map.
        """
        least = least.detach()
        bends = {
            number: curvature.detach() / 2 * (self.derived.epsilon * self.derived.sources[number].tight) ** 2
            for number, curvature in curvatures.items()
        }
        for number, row in pending.items():
            source, reach, flat = self.derived.sources[number], self.derived.reaches[number], row.detach().flatten(1)
            varying, (lower, upper) = flat * source.varying.flatten(), (each.flatten() for each in source.change)
            rounds = STOP_ROUNDS if number or self.derived.clip_input else 0  # a whole ball says more than its box
            fall = maximum_over(-varying, self.derived.epsilon * source.tight * (1 + SLACK), lower, upper, rounds)
            fall = fall + bends.pop(number, 0.0) * (1 + SLACK) ** 3
            if number == 0 and alone is not None:
                radius = self.derived.epsilon * (1 + SLACK)
                fall = torch.minimum(fall, alone[0].rise(-row.detach(), alone[1].detach(), radius, RISE_ROUNDS[1]))
            doubt = reach.own.entries.flatten() + self.unit * self.sizes[number].flatten()
            least = least + flat @ reach.center.flatten() - fall * (1 + SLACK) - flat.abs() @ doubt
        for bend in bends.values():
            least = least - bend * (1 + SLACK) ** 4
        return torch.where(least.isfinite(), least, -torch.inf)
