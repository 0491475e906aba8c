"""Free slopes and multipliers of every row, by gradient ascent; soundness does not depend on them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lipcert.crown.ball import Ball
from lipcert.crown.state import State
from lipcert.crown.substitution import LARGEST_CHUNK, Found, Rows, rows_at_a_time, substitute
from lipcert.graph import Graph

LEARNING_RATE = 0.15
"""Of Adam; it falls linearly to a twentieth."""

SMALLEST = 1e-3
"""Multiplier that the optimisation starts from where smaller ones were found."""


def bounded(graph: Graph, rows: Rows, state: State, ball: Ball, steps: int = 0, required: Tensor | None = None) -> Rows:
    """Return rows at the image, by the closest lines or, with `steps` > 0, by free slopes where these are better.

    Args:
        graph: whose activations are split, see `split_activations`.
        rows: at the logits.
        state: boxes, balls and sizes.
        ball: the images.
        steps: of the optimisation at most.
        required: (R,), rows above it are not worked on any more; None to maximise all.
    """
    chunks = zip(*(each.split(rows_at_a_time(graph)) for each in rows), strict=True)
    parts = [substitute(graph, Rows(*chunk), state) for chunk in chunks]
    found = Rows(*map(torch.cat, zip(*parts, strict=True)))
    if steps == 0 or not len(rows.image):
        return found
    goal = torch.full_like(rows.constant, torch.inf) if required is None else required
    short = (~(ball.certain(found) > goal)).nonzero()[:, 0]
    slopes = sum(lower[0].numel() for lower, _ in state.boxes.values())
    for chunk in short.split(max(1, LARGEST_CHUNK // max(1, slopes))):
        part = Rows(*(each[chunk] for each in rows))
        chosen = optimised(graph, part, state, ball, steps, goal[chunk])
        better = substitute(graph, part, replace(state, slopes=chosen.slopes, multipliers=chosen.multipliers))
        wins = ball.certain(better) > ball.certain(Rows(*(each[chunk] for each in found)))
        pairs = zip(found, better, strict=True)
        found = Rows(*(before.index_put((chunk[wins],), after[wins]) for before, after in pairs))
    return found


class Free(NamedTuple):
    """What a bound holds at whatever values of, by the node's index: slopes, (R, *shape), and multipliers, (R,)."""

    slopes: dict[int, Tensor]
    multipliers: dict[int, Tensor]


@dataclass(frozen=True)
class _Parameters:
    """Free values around those of a first pass: slopes in units of the row's coefficients, multipliers by logarithms.

    `steps`: of slopes and of multipliers, by the node's index, 0 at first.
    """

    first: dict[int, Found]
    slopes: dict[int, Tensor]
    logarithms: dict[int, Tensor]

    @classmethod
    def around(cls, first: dict[int, Found]) -> _Parameters:
        slopes = {index: torch.zeros_like(found.slopes).requires_grad_(True) for index, found in first.items()}
        multipliers = {index: found.multiplier for index, found in first.items() if found.multiplier is not None}
        logs = {index: each.clamp_min(SMALLEST).log().requires_grad_(True) for index, each in multipliers.items()}
        return cls(first, slopes, logs)

    def free(self) -> Free:
        slopes = {index: found.slopes + _unit(found) * self.slopes[index] for index, found in self.first.items()}
        return Free(slopes, {index: each.exp() for index, each in self.logarithms.items()})


def _unit(found: Found) -> Tensor:
    """Return the root mean square of the coefficients of each row, (R, 1, ...)."""
    flat = found.coefficients.flatten(1)
    unit = torch.linalg.vector_norm(flat, dim=1) / (flat != 0).sum(dim=1).clamp_min(1).sqrt()
    return unit.view(-1, *(1 for _ in found.coefficients.shape[1:]))


def optimised(graph: Graph, rows: Rows, state: State, ball: Ball, steps: int, goal: Tensor) -> Free:
    """Return what each row met its best value with on the way, from the closest lines on."""
    first: dict[int, Found] = {}
    quick = replace(state, sizes=None)
    substitute(graph, rows, quick, found=first)
    parameters = _Parameters.around(first)
    free = [*parameters.slopes.values(), *parameters.logarithms.values()]
    best = [each.detach().clone() for each in free]
    highest = torch.full_like(goal, -torch.inf)
    if not free:
        return Free({}, {})
    optimizer = torch.optim.Adam(free, lr=LEARNING_RATE)
    with torch.enable_grad():
        for step in range(steps + 1):
            tried = parameters.free()
            found = substitute(graph, rows, replace(quick, slopes=tried.slopes, multipliers=tried.multipliers))
            least = ball.least(found)
            rises = least.detach() > highest
            highest = torch.where(rises, least.detach(), highest)
            for kept, tensor in zip(best, free, strict=True):
                kept[rises] = tensor.detach()[rises]
            if step == steps or bool((highest > goal).all()):
                break
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - 0.95 * step / steps)
            gradients = torch.autograd.grad(-least.sum(), free, allow_unused=True, materialize_grads=True)
            for tensor, gradient in zip(free, gradients, strict=True):
                tensor.grad = gradient.nan_to_num(0.0, 0.0, 0.0)
            optimizer.step()
    with torch.no_grad():
        for tensor, kept in zip(free, best, strict=True):
            tensor.copy_(kept)
        return parameters.free()
