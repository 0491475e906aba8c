"""Free slopes of every row, optimised by gradient ascent (alpha-CROWN); soundness does not depend on them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace

import torch
from torch import Tensor

from lipcert.crown.ball import Ball
from lipcert.crown.lines import Shares
from lipcert.crown.network import Network
from lipcert.crown.substitution import Rows, State, substitute

LEARNING_RATE = 0.2
"""Of Adam on shares in [0, 1]; it falls linearly to a tenth."""

LARGEST_CHUNK = 2**20
"""Slopes that are optimised at a time, and entries of the widest layer's rows elsewhere."""


def bounded(
    network: Network, rows: Rows, state: State, ball: Ball, steps: int = 0, required: Tensor | None = None
) -> Rows:
    """Return rows at the image, by the closest lines or, with `steps` > 0, by optimised ones where these are better.

    Args:
        network: of the graph.
        rows: at the logits.
        state: boxes and sizes.
        ball: the images.
        steps: of the optimisation at most.
        required: (R,), rows above it are not worked on any more; None to maximise all.
    """
    every = torch.arange(len(rows.image), device=rows.image.device)
    chunks = every.split(max(1, LARGEST_CHUNK // network.widest))
    found = _joined([substitute(network, _taken(rows, chunk), state) for chunk in chunks])
    if steps == 0 or not len(rows.image):
        return found
    goal = torch.full_like(rows.constant, torch.inf) if required is None else required
    short = (~(ball.certain(found) > goal)).nonzero()[:, 0]
    slopes = 2 * sum(math.prod(bend.shape) for bend in network.bends)
    for chunk in short.split(max(1, LARGEST_CHUNK // max(1, slopes))):
        part = _taken(rows, chunk)
        shares = optimised(network, part, state, ball, steps, goal[chunk])
        better = substitute(network, part, replace(state, shares=shares))
        wins = ball.certain(better) > ball.certain(_taken(found, chunk))
        found = _replaced(found, chunk[wins], _taken(better, wins.nonzero()[:, 0]))
    return found


def optimised(network: Network, rows: Rows, state: State, ball: Ball, steps: int, goal: Tensor) -> dict[int, Shares]:
    """Return the shares of the best value that each row met on the way, from the closest lines on."""
    quick = replace(state, sizes=None)
    free = _initial(network, rows, state)
    parameters = [tensor for shares in free.values() for tensor in (shares.lower, shares.upper)]
    if not parameters:
        return {}
    best = [tensor.detach().clone() for tensor in parameters]
    highest = torch.full_like(goal, -torch.inf)
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    with torch.enable_grad():
        for step in range(steps + 1):
            values = ball.least(substitute(network, rows, replace(quick, shares=free)))
            rises = values.detach() > highest
            highest = torch.where(rises, values.detach(), highest)
            for kept, tensor in zip(best, parameters, strict=True):
                kept[rises] = tensor.detach()[rises]
            if step == steps or bool((highest > goal).all()):
                break
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * (1 - 0.9 * step / steps)
            gradients = torch.autograd.grad(-values.sum(), parameters)
            for tensor, gradient in zip(parameters, gradients, strict=True):
                tensor.grad = gradient.nan_to_num(0.0, 0.0, 0.0)
            optimizer.step()
            with torch.no_grad():
                for tensor in parameters:
                    tensor.clamp_(0, 1)
    pairs = zip(best[::2], best[1::2], strict=True)
    return {index: Shares(lower, upper) for index, (lower, upper) in zip(free, pairs, strict=True)}


def _initial(network: Network, rows: Rows, state: State) -> Mapping[int, Shares]:
    """Return the closest lines' shares as parameters, of the clamps that bend for any row."""
    found = {}
    for bend in network.bends:
        interval = state.interval(bend, rows.image)
        if bool(interval.bends.any()):
            closest = interval.closest()
            found[bend.index] = Shares(closest.lower.requires_grad_(True), closest.upper.requires_grad_(True))
    return found


def _joined(parts: list[Rows]) -> Rows:
    return Rows(*(torch.cat([getattr(part, each.name) for part in parts]) for each in fields(Rows)))


def _taken(rows: Rows, index: Tensor) -> Rows:
    return Rows(rows.coefficients[index], rows.constant[index], rows.slack[index], rows.image[index])


def _replaced(rows: Rows, index: Tensor, others: Rows) -> Rows:
    """Return rows with those at `index` replaced."""
    return Rows(
        rows.coefficients.index_put((index,), others.coefficients),
        rows.constant.index_put((index,), others.constant),
        rows.slack.index_put((index,), others.slack),
        rows.image,
    )
