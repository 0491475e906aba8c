"""Free slopes and multipliers of every row, by gradient ascent; soundness does not depend on them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lipcert.crown.ball import Ball
from lipcert.crown.state import State
from lipcert.crown.substitution import LARGEST_CHUNK, Found, Rows, substitute
from lipcert.graph import Graph

LEARNING_RATE = 0.15
"""Of Adam, from the closest lines on; it falls linearly to a twentieth."""

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
        goal: (R,), rows above it need no more.
        rate: learning rate of Adam; it falls linearly to a twentieth.
    """
    first: dict[int, Found] = {}
    quick = replace(state, sizes=None)
    substitute(graph, rows, quick, found=first)
    parameters = _Parameters.around(first)
    free = [*parameters.slopes.values(), *parameters.logarithms.values()]
    best = [each.detach().clone() for each in free]
    highest = torch.full_like(goal, -torch.inf)
    if not free:
        return Free({}, {})
    optimizer = torch.optim.Adam(free, lr=rate)
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
            optimizer.param_groups[0]["lr"] = rate * (1 - 0.95 * step / steps)
            gradients = torch.autograd.grad(-least.sum(), free, allow_unused=True, materialize_grads=True)
            for tensor, gradient in zip(free, gradients, strict=True):
                tensor.grad = gradient.nan_to_num(0.0, 0.0, 0.0)
            optimizer.step()
    with torch.no_grad():
        for tensor, kept in zip(free, best, strict=True):
            tensor.copy_(kept)
        return parameters.free()
