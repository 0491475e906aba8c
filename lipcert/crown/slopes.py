"""Free slopes of every row, optimised by gradient ascent (alpha-CROWN); soundness does not depend on them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lipcert.crown.ball import Ball
from lipcert.crown.lines import Slopes
from lipcert.crown.state import State
from lipcert.crown.substitution import LARGEST_CHUNK, Rows, rows_at_a_time, substitute
from lipcert.graph import Graph

LEARNING_RATE = 0.05
"""Of Adam; it falls linearly to a twentieth."""

RANGE = (-0.5, 1.5)
"""Slopes are kept here: over a ball the best ones may lie a little outside [0, 1], those of linear neurons too."""


def bounded(graph: Graph, rows: Rows, state: State, ball: Ball, steps: int = 0, required: Tensor | None = None) -> Rows:
    """Return rows at the image, by the closest lines or, with `steps` > 0, by optimised ones where these are better.

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
    slopes = 2 * sum(lower[0].numel() for lower, _ in state.boxes.values())
    for chunk in short.split(max(1, LARGEST_CHUNK // max(1, slopes))):
        part = Rows(*(each[chunk] for each in rows))
        chosen = optimised(graph, part, state, ball, steps, goal[chunk])
        better = substitute(graph, part, replace(state, slopes=chosen))
        wins = ball.certain(better) > ball.certain(Rows(*(each[chunk] for each in found)))
        pairs = zip(found, better, strict=True)
        found = Rows(*(before.index_put((chunk[wins],), after[wins]) for before, after in pairs))
    return found


def optimised(graph: Graph, rows: Rows, state: State, ball: Ball, steps: int, goal: Tensor) -> dict[int, Slopes]:
    """Return the slopes at which each row met its best value on the way, from the closest lines on."""
    free: dict[int, Slopes] = {}
    for node in graph.activations:
        interval = state.interval(node, rows.image)
        if bool((interval.varies if node.index in state.balls else interval.bends).any()):
            free[node.index] = Slopes(*(each.requires_grad_(True) for each in interval.closest()))
    if not free:
        return {}
    parameters = [tensor for slopes in free.values() for tensor in slopes]
    best = {index: Slopes(*(tensor.detach().clone() for tensor in slopes)) for index, slopes in free.items()}
    highest = torch.full_like(goal, -torch.inf)
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    quick = replace(state, sizes=None, slopes=free)
    with torch.enable_grad():
        for step in range(steps + 1):
            values = ball.least(substitute(graph, rows, quick))
            rises = values.detach() > highest
            highest = torch.where(rises, values.detach(), highest)
            for index, slopes in free.items():
                for kept, tensor in zip(best[index], slopes, strict=True):
                    kept[rises] = tensor.detach()[rises]
            if step == steps or bool((highest > goal).all()):
                break
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - 0.95 * step / steps)
            gradients = torch.autograd.grad(-values.sum(), parameters)
            for tensor, gradient in zip(parameters, gradients, strict=True):
                tensor.grad = gradient.nan_to_num(0.0, 0.0, 0.0)
            optimizer.step()
            with torch.no_grad():
                for tensor in parameters:
                    tensor.clamp_(*RANGE)
    return best
