"""Lower bounds of linear functions of a network's values, substituted from behind over balls cut by boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.recheck.activations import Activation, masks
from lipcert.recheck.ball_box import Clamp
from lipcert.recheck.derivation import Derivation
from lipcert.recheck.linear import single_map
from lipcert.recheck.maximum import maximum_over
from lipcert.recheck.program import ActivationStep, AddStep, AffineStep
from lipcert.recheck.reach import SLACK
from lipcert.recheck.rounding import ARITHMETIC, gamma

FLOAT64 = ARITHMETIC[torch.float64]
ROOT = 2**0.5

LARGEST_CHUNK = 2**21
"""Entries of the largest value, over all rows that are worked on at a time."""

LARGEST_REFINED = 4096
"""Entries of a layer whose intervals are refined, at most."""

LEARNING_RATE = 0.1
"""Of Adam on slopes; it falls linearly to a tenth."""

RANGE = (-0.5, 1.5)
"""Slopes are kept here: with a ball the best ones may lie outside [0, 1]."""

STOP_ROUNDS = 24
"""Halvings for the multiplier where rows end in a ball cut by a box."""

Slopes = Mapping[Clamp, Tensor]


@dataclass(frozen=True, eq=False)
class Bends:
    """An activation as clamps over what is known of its inputs.

    Of a pair (a, b) with t = (a - b)/√2 the larger is b + √2 max(t, 0), the smaller a - √2 max(t, 0): `inner` clamps t,
    `outer` what comes out. Unpaired inputs have one clamp, `inner`. `size`: the largest moduli of inputs, (N,).
    """

    paired: bool
    size: Tensor
    inner: Clamp
    outer: Clamp | None = None

    def relax(self, rows: Tensor, slopes: Slopes) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows of the inputs for those of the outputs, (R, *shape), constants and their size, (R,)."""
        flat, constant, size = rows.flatten(1), rows.new_zeros(len(rows)), rows.new_zeros(len(rows))
        if self.outer is not None:
            relaxed = self.outer.relax(flat, slopes.get(self.outer, self.outer.hull))
            flat, constant, size = relaxed.rows, relaxed.constant, relaxed.size
        larger, smaller = flat.chunk(2, dim=1)
        relaxed = self.inner.relax(
            (larger - smaller) * ROOT if self.paired else flat, slopes.get(self.inner, self.inner.hull)
        )
        flat, size = relaxed.rows, size + relaxed.size
        if self.paired:
            size = size + 4 * (larger.detach().abs() + smaller.detach().abs()) @ torch.maximum(*self.size.chunk(2))
            flat = torch.cat((smaller + flat / ROOT, larger - flat / ROOT), dim=1)
        return flat.view_as(rows), constant + relaxed.constant, size


class Backward:
    """Backward bounds over the ball of a derivation, from whose balls and boxes they start."""

    def __init__(self, derived: Derivation) -> None:
        self.derived, self.program = derived, derived.program
        self.boxes = [(reach.lower, reach.upper) for reach in derived.reaches]
        self.differences: dict[int, tuple[Tensor, Tensor]] = {}
        self.sizes = [reach.magnitude + reach.center.abs() + reach.own.entries for reach in derived.reaches]
        self.shifts: dict[int, Tensor] = {}
        operations = 64 + 4 * max(size.numel() for size in self.sizes)
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

    def bound(self, value: int, rows: Tensor, steps: int = 0, goal: Tensor | None = None) -> Tensor:
        """Return lower bounds over the ball of linear functions of a value, (R,).

        Args:
            value: its number.
            rows: their coefficients, (R, *shape of the value).
            steps: of ascents of slopes, from those of convex hulls on.
            goal: (R,), what is enough.
        """
        largest = max(size.numel() for size in self.sizes)
        goal = rows.new_full((len(rows),), torch.inf) if goal is None else goal
        found = [
            self._ascended(value, chunk, steps, enough)
            for chunk, enough in zip(
                *(each.split(max(1, LARGEST_CHUNK // largest)) for each in (rows, goal)), strict=True
            )
        ]
        return torch.cat(found) if found else goal

    def refine(self, steps: int = 0, most: int = LARGEST_REFINED) -> None:
        """Shrink the intervals of all that bends, activation after activation, by backward bounds.

        Args:
            steps: of ascents of slopes.
            most: activations where more entries bend keep their intervals.
        """
        for step in self.activations:
            bends, value = self.bends[step.target], step.source
            if bends.paired:
                pairs, half = bends.inner.bends, bends.inner.center.numel()
                if bends.outer is not None:
                    places = torch.cat([bends.outer.bends % half + shift for shift in (0, half)]).unique()
                    self.boxes[value] = self._refined(value, self.boxes[value], places, None, steps, most)
                box = (bends.inner.lower, bends.inner.upper)
                self.differences[value] = self._refined(value, box, pairs, pairs + half, steps, most)
            elif self.derived.reaches[value].rows.keys() != {0}:  # of a linear map of the image all is known
                self.boxes[value] = self._refined(value, self.boxes[value], bends.inner.bends, None, steps, most)
            self.bends[step.target] = self._bends(step)

    def _refined(
        self, value: int, box: tuple[Tensor, Tensor], places: Tensor, others: Tensor | None, steps: int, most: int
    ) -> tuple[Tensor, Tensor]:
        """Return a box, cut at `places`, flat, to what entries, or (entry - other)/√2, can be."""
        if not 0 < len(places) <= most:
            return box
        rows = torch.zeros(len(places), self.boxes[value][0].numel(), dtype=torch.float64)
        rows.scatter_(1, places[:, None], 1.0)
        if others is not None:
            rows = rows.scatter(1, others[:, None], -1.0) / ROOT
        rows = rows.view(-1, *self.program.shapes[value])
        lower, upper = (each.flatten() for each in box)
        lower = lower.index_copy(0, places, torch.maximum(lower[places], self.bound(value, rows, steps)))
        upper = upper.index_copy(0, places, torch.minimum(upper[places], -self.bound(value, -rows, steps)))
        return lower.view_as(box[0]), upper.view_as(box[1])

    def _bends(self, step: ActivationStep) -> Bends:
        """Return an activation's clamps; what varies of its inputs moves as little as its outputs, a source."""
        activation, reach = step.activation, self.derived.reaches[step.source]
        center, (lower, upper) = reach.center, self.boxes[step.source]
        radius = self.derived.sources[step.target].tight * self.derived.epsilon * (1 + SLACK)
        radius += reach.own.norm + 8 * FLOAT64.unit * float(center.norm())
        mask, size = masks(activation, lower, upper), self.sizes[step.source].flatten()

        def clamp(lower: Tensor, upper: Tensor, low: Tensor, high: Tensor, center: Tensor, near: Tensor) -> Clamp:
            lower, upper, low, high = (each.expand_as(center).flatten() for each in (lower, upper, low, high))
            return Clamp(lower, upper, low, high, center.flatten(), near.flatten() > 0, radius)

        zero, infinity = center.new_zeros(()), center.new_full((), torch.inf)
        if not activation.paired:
            return Bends(False, size, clamp(lower, upper, zero, activation.high, center, mask.needed))
        (a, b), (a_lower, b_lower), (a_upper, b_upper) = (each.chunk(2, dim=1) for each in (center, lower, upper))
        least = (a_lower - b_upper) / ROOT - SLACK * (a_lower.abs() + b_upper.abs())
        most = (a_upper - b_lower) / ROOT + SLACK * (a_upper.abs() + b_lower.abs())
        least = torch.where(a_lower >= b_upper, least.clamp(min=0), least)
        most = torch.where(b_lower >= a_upper, most.clamp(max=0), most)
        if step.source in self.differences:
            known = [each.view_as(a) for each in self.differences[step.source]]
            least, most = torch.maximum(least, known[0]), torch.minimum(most, known[1])
        inner = clamp(least, most, zero, infinity, (a - b) / ROOT, torch.minimum(*mask.needed.chunk(2, dim=1)))
        if bool(activation.high.isinf().all() and activation.low.isinf().all()):
            return Bends(True, size, inner)
        sort = Activation(activation.name, True, infinity, -infinity)
        low = torch.cat((torch.full_like(a, -torch.inf), activation.low.expand_as(a)), dim=1)
        high = torch.cat((activation.high.expand_as(a), torch.full_like(a, torch.inf)), dim=1)
        return Bends(True, size, inner, clamp(sort(lower), sort(upper), low, high, sort(center), mask.varying))

    def _ascended(self, value: int, rows: Tensor, steps: int, goal: Tensor) -> Tensor:
        """Return the best bounds met on an ascent of slopes, (R,); -infinity for what is not a number."""
        with torch.no_grad():
            best, _ = self._substituted(value, rows, {})
        if steps == 0 or bool((best > goal).all()):
            return best
        below = [bends for target, bends in self.bends.items() if target <= value]
        clamps = [each for bends in below for each in (bends.inner, bends.outer) if each is not None]
        slopes = {each: each.hull.repeat(len(rows), 1, 1).requires_grad_() for each in clamps if len(each.index)}
        if not slopes:
            return best
        optimizer = torch.optim.Adam(slopes.values(), LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, steps)
        for _ in range(steps):
            with torch.enable_grad():
                found, ascended = self._substituted(value, rows, slopes)
            best = torch.maximum(best, found)
            if not ascended.requires_grad or bool((best > goal).all()):
                break
            optimizer.zero_grad()
            (-ascended.sum()).backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                for each in slopes.values():
                    each.clamp_(*RANGE)
        return best

    def _substituted(self, value: int, rows: Tensor, slopes: Slopes) -> tuple[Tensor, Tensor]:
        """Return lower bounds of rows, the best of all places where they may end, and those at the image, (R,).

        The former are proved, the latter differentiable.
        """
        pending, constant, slack = {value: rows}, rows.new_zeros(len(rows)), rows.new_full((len(rows),), self.tiny)
        best = torch.full_like(constant, -torch.inf)
        for step in reversed(self.program.steps):
            here = pending.pop(step.target, None)
            if here is None:
                continue
            if step.target in self.derived.sources and pending.keys() <= self.derived.sources.keys():
                best = torch.maximum(best, self._ended({**pending, step.target: here}, constant, slack))
            slack += self.unit * (here.detach().flatten(1).abs() @ self.sizes[step.target].flatten())
            sources: tuple[int, ...] = (step.source,) if not isinstance(step, AddStep) else (step.first, step.second)
            if isinstance(step, AffineStep):
                constant = constant + here.flatten(1) @ self.shifts[step.target]
                here = single_map(step, self.program).adjoint(here)
            elif isinstance(step, ActivationStep):
                here, more, size = self.bends[step.target].relax(here, slopes)
                constant = constant + more
                slack += self.unit * size
            slack += self.unit * constant.detach().abs()
            for source in sources:
                pending[source] = pending[source] + here if source in pending else here
        best = torch.maximum(best, self._ended(pending, constant, slack))
        for source, row in pending.items():
            constant = constant + row.flatten(1) @ self.derived.reaches[source].center.flatten()
            constant = constant - self.derived.epsilon * row.flatten(1).norm(dim=1)
        return best, constant

    def _ended(self, pending: Mapping[int, Tensor], constant: Tensor, slack: Tensor) -> Tensor:
        """Return what rows of sources and a constant are at least, (R,); -infinity for what is not a number."""
        least = constant.detach() - slack
        for number, row in pending.items():
            source, reach, flat = self.derived.sources[number], self.derived.reaches[number], row.detach().flatten(1)
            varying, (lower, upper) = flat * source.varying.flatten(), (each.flatten() for each in source.change)
            rounds = STOP_ROUNDS if number or self.derived.clip_input else 0  # a whole ball says more than its box
            fall = maximum_over(-varying, self.derived.epsilon * source.tight * (1 + SLACK), lower, upper, rounds)
            doubt = reach.own.entries.flatten() + self.unit * self.sizes[number].flatten()
            least = least + flat @ reach.center.flatten() - fall * (1 + SLACK) - flat.abs() @ doubt
        return torch.where(least.isfinite(), least, -torch.inf)
