"""Free slopes and multipliers of every row, by gradient ascent; soundness does not depend on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lipcert.crown.ascent import Ascent
from lipcert.crown.ball import Ball
from lipcert.crown.state import State
from lipcert.crown.substitution import LARGEST_CHUNK, Found, Rows, substitute
from lipcert.graph import Graph

LEARNING_RATE = 0.1
"""Of Adam at first, from the closest lines on."""

PACE = 10
"""Rows are left that would not get there at the pace of so many steps, and so are the others of their images."""

ROOM = 1e-6
"""Rows go on until they are so far above what is asked for, which leaves room for the rounding of bounds."""

SMALLEST = 1e-3
"""Multiplier that the optimisation starts from where smaller ones were found."""


def ascended(graph: Graph, rows: Rows, found: Rows, state: State, ball: Ball, steps: int, goal: Tensor) -> Rows:
    """Return rows at the image by free slopes and multipliers, or as they were `found` where these are no better.

    Args: as of `optimised`; `found`: the same rows at the image.
    """
    slopes = sum(lower[0].numel() for lower, _ in state.boxes.values())
    parts = list[Rows]()
    for chunk in torch.arange(len(goal), device=goal.device).split(max(1, LARGEST_CHUNK // max(1, slopes))):
        part, before = rows.of_rows(chunk), found.of_rows(chunk)
        chosen = optimised(graph, part, state, ball, steps, goal[chunk])
        better = substitute(graph, part, replace(state, slopes=chosen.slopes, multipliers=chosen.multipliers))
        parts.append(better.where(ball.certain(better) > ball.certain(before), before))
    return Rows.joined(parts)


class Free(NamedTuple):
    """What a bound holds at whatever values of, by the node's index: slopes, (R, *shape), and multipliers, (R,)."""

    slopes: dict[int, Tensor]
    multipliers: dict[int, Tensor]


@dataclass(frozen=True)
class _Origin:
    """Values of a first pass, in whose units free ones are told: slopes in those of the row's coefficients, multipliers
    by logarithms."""

    first: dict[int, Found]

    def start(self) -> list[Tensor]:
        """Return the slopes of the first pass, which are 0 here, and its multipliers."""
        slopes = [torch.zeros_like(found.slopes) for found in self.first.values()]
        return [*slopes, *(each.clamp_min(SMALLEST).log() for each in self._multipliers().values())]

    def free(self, points: Sequence[Tensor]) -> Free:
        """Return slopes and multipliers at `points`, as `start` orders them."""
        slopes = {
            index: found.slopes + _unit(found) * point
            for (index, found), point in zip(self.first.items(), points, strict=False)
        }
        return Free(
            slopes, {index: each.exp() for index, each in zip(self._multipliers(), points[len(slopes) :], strict=True)}
        )

    def of_rows(self, index: Tensor) -> _Origin:
        """Return those of rows `index`, (N,)."""
        return _Origin(
            {
                node: Found(coefficients[index], slopes[index], None if multiplier is None else multiplier[index])
                for node, (coefficients, slopes, multiplier, _) in self.first.items()
            }
        )

    def _multipliers(self) -> dict[int, Tensor]:
        return {index: found.multiplier for index, found in self.first.items() if found.multiplier is not None}


def _unit(found: Found) -> Tensor:
    """Return the root mean square of the coefficients of each row, (R, 1, ...)."""
    flat = found.coefficients.flatten(1)
    unit = torch.linalg.vector_norm(flat, dim=1) / (flat != 0).sum(dim=1).clamp_min(1).sqrt()
    return unit.view(-1, *(1 for _ in found.coefficients.shape[1:]))


def optimised(
    graph: Graph, rows: Rows, state: State, ball: Ball, steps: int, goal: Tensor, rate: float = LEARNING_RATE
) -> Free:
    """Return what each row met its best value with on the way, from the slopes of the state or the closest lines on.

    Args:
        graph: whose activations are split into steps, see `split_activations`.
        rows: at the logits.
        state: boxes and balls.
        ball: the images.
        steps: of the optimisation at most.
        goal: (R,), rows above it need no more; infinity for as much as there is.
        rate: learning rate of Adam at first.
    """
    first: dict[int, Found] = {}
    quick = replace(state, sizes=None)
    substitute(graph, rows, quick, found=first)
    whole = origin = _Origin(first)
    if not first:
        return Free({}, {})
    ascent = Ascent(origin.start(), rate, steps, smooth=bool(state.balls))
    best, left, passed = origin.start(), torch.arange(len(goal), device=goal.device), list[Tensor]()
    for step in range(steps + 1):
        with torch.enable_grad():
            tried = origin.free(ascent.points)
            least = ball.least(
                substitute(graph, rows, replace(quick, slopes=tried.slopes, multipliers=tried.multipliers))
            )
            gradients = torch.autograd.grad(least.sum(), ascent.points, allow_unused=True, materialize_grads=True)
        ascent.step(least.detach(), gradients)
        gap = ascent.highest - goal[left]
        passed.append(gap)
        going = ~(gap > ROOM)
        if step >= PACE:
            reach = gap + (gap - passed[-1 - PACE]) / PACE * (steps - step)
            hopeless = ascent.smooth & (reach < 0)  # NaN is not
            going &= ~torch.isin(rows.image, rows.image[hopeless])
        if step == steps or 4 * int(going.sum()) <= 3 * len(left):
            for kept, found in zip(best, ascent.best, strict=True):
                kept[left] = found
            index = going.nonzero()[:, 0]
            if step == steps or not len(index):
                break
            ascent.keep(index)
            rows, origin, left = rows.of_rows(index), origin.of_rows(index), left[index]
            passed = [each[index] for each in passed[-PACE:]]
    return whole.free(best)
