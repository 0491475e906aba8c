"""One backward pass: rows of a value become rows of the image, step after step, with all that is left on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.recheck.ball_box import Clamp, Relaxed
from lipcert.recheck.bends import Bends, Choices, Windows
from lipcert.recheck.derivation import Derivation
from lipcert.recheck.program import ActivationStep, AddStep, AffineStep, single_map
from lipcert.recheck.reach import SLACK, maximum_over
from lipcert.recheck.trust_region import Quadratic

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


@dataclass(frozen=True, eq=False)
class Known:
    """What backward passes over one ball rest on: clamps of activations and links, by number of their values.

    `sizes`: of all values, the largest moduli; `shifts`: what layers add, flat. `unit`, `tiny`: rounding
    errors, relative to moduli and for each pass.
    """

    derived: Derivation
    bends: Mapping[int, Bends | Windows]
    links: Mapping[int, Link | None]
    sizes: list[Tensor]
    shifts: Mapping[int, Tensor]
    unit: float
    tiny: float


def substituted(
    known: Known, value: int, rows: Tensor, choices: Choices, chosen: dict[Clamp, Relaxed]
) -> tuple[Tensor, Tensor]:
    """Return lower bounds of rows, the best of all places where they may end, and those at the image, (R,).

    The former are proved, the latter differentiable. `chosen`: takes what clamps were relaxed to.
    """
    rest = _Pass(known, value, rows)
    for step in reversed(known.derived.program.steps):
        here = rest.pending.pop(step.target, None)
        if here is None:
            continue
        rest.stop(step.target, here)
        rest.round(here.detach().flatten(1).abs() @ known.sizes[step.target].flatten())
        if isinstance(step, AddStep):
            rest.arrive(step.first, here)
            rest.arrive(step.second, here)
        elif isinstance(step, AffineStep):
            rest.constant = rest.constant + here.flatten(1) @ known.shifts[step.target]
            rest.arrive(step.source, single_map(step, known.derived.program).adjoint(here))
        else:
            rest.arrive(step.source, rest.relaxed(step, here, choices, chosen))
        rest.round(rest.constant.detach().abs())
    return rest.at_image()


class _Pass:
    """Rows on their way, `pending`, by number of the value, and `curvatures` about sources, (R,) each.

    `constant`: what all rows come with; `slack`: its errors. `best`: bounds proved so far. `parts`: curvatures
    about the image, each with its map.
    """

    def __init__(self, known: Known, value: int, rows: Tensor) -> None:
        self.known, self.pending, self.constant = known, {value: rows}, rows.new_zeros(len(rows))
        self.slack, self.best = rows.new_full((len(rows),), known.tiny), rows.new_full((len(rows),), -torch.inf)
        self.curvatures: dict[int, Tensor] = {}
        self.parts: list[tuple[Quadratic, Tensor]] = []

    def round(self, moduli: Tensor) -> None:
        """Add the errors of sums of these moduli, (R,)."""
        self.slack = self.slack + self.known.unit * moduli

    def arrive(self, value: int, row: Tensor) -> None:
        """Add rows of a value."""
        self.pending[value] = self.pending[value] + row if value in self.pending else row

    def relaxed(self, step: ActivationStep, row: Tensor, choices: Choices, chosen: dict[Clamp, Relaxed]) -> Tensor:
        """Return rows before an activation; what they leave goes to the constant, curvature on to its source."""
        arriving = self.curvatures.pop(step.target, torch.zeros_like(self.constant))
        bends, link = self.known.bends[step.target], self.known.links[step.target]
        row, relaxed = bends.relax(row, arriving, choices, chosen)
        row = row.view(-1, *self.known.derived.program.shapes[step.source])
        curvature = relaxed.curvature
        self.constant = self.constant + relaxed.constant
        self.round(relaxed.size)
        self.slack = self.slack + (curvature + arriving).detach() * self._doubt(step)
        if link is None:
            self.constant = self.constant - bends.price(curvature)
            return row
        passed = curvature * (link.norm**2 * (1 + SLACK) ** 4)
        self.curvatures[link.source] = self.curvatures.get(link.source, torch.zeros_like(passed)) + passed
        if link.quadratic is not None:
            self.parts.append((link.quadratic, curvature * (1 + SLACK) ** 2))
        return row

    def _doubt(self, step: ActivationStep) -> float:
        """Return what a curvature of 1 before and behind clamps may cost more as the center is known with errors."""
        return 2 * (1 + 1 / SLACK) * self.known.derived.reaches[step.source].own.norm ** 2

    def stop(self, value: int, row: Tensor) -> None:
        """Let rows of a source end there, if all others are of sources, too."""
        sources = self.known.derived.sources
        if value in sources and self.pending.keys() <= sources.keys():
            self._end({**self.pending, value: row})

    def at_image(self) -> tuple[Tensor, Tensor]:
        """Return the best bounds proved, and those at the image, differentiable, (R,) both."""
        derived, value = self.known.derived, self.constant
        alone = self.parts[0] if len(self.parts) == 1 and self.curvatures.keys() == {0} else None
        self._end(self.pending, alone)
        for source, row in self.pending.items():
            value = value + row.flatten(1) @ derived.reaches[source].center.flatten()
        row, radius = self.pending.get(0, value.new_zeros(len(value), 1)), derived.epsilon
        if alone is not None:
            return self.best, value - alone[0].rise(row, alone[1], radius, RISE_ROUNDS[0])
        bend = sum(self.curvatures.values()) * radius**2 / 2
        return self.best, value - radius * row.flatten(1).norm(dim=1) - bend

    def _end(self, pending: Mapping[int, Tensor], alone: tuple[Quadratic, Tensor] | None = None) -> None:
        """Bound rows of sources by what these can be; no number proves nothing.

        `alone`: all curvature at the image, where it is about one map.
        """
        derived, least = self.known.derived, (self.constant - self.slack).detach()
        bends = {
            number: curvature.detach() / 2 * (derived.epsilon * derived.sources[number].tight) ** 2
            for number, curvature in self.curvatures.items()
        }
        for number, row in pending.items():
            source, reach, flat = derived.sources[number], derived.reaches[number], row.detach().flatten(1)
            varying, (lower, upper) = flat * source.varying.flatten(), (each.flatten() for each in source.change)
            rounds = STOP_ROUNDS if number or derived.clip_input else 0  # a whole ball says more than its box
            fall = maximum_over(-varying, derived.epsilon * source.tight * (1 + SLACK), lower, upper, rounds)
            fall = fall + bends.pop(number, 0.0) * (1 + SLACK) ** 3
            if number == 0 and alone is not None:
                radius = derived.epsilon * (1 + SLACK)
                fall = torch.minimum(fall, alone[0].rise(-row.detach(), alone[1].detach(), radius, RISE_ROUNDS[1]))
            doubt = reach.own.entries.flatten() + self.known.unit * self.known.sizes[number].flatten()
            least = least + flat @ reach.center.flatten() - fall * (1 + SLACK) - flat.abs() @ doubt
        for bend in bends.values():
            least = least - bend * (1 + SLACK) ** 4
        self.best = torch.maximum(self.best, torch.where(least.isfinite(), least, -torch.inf))
