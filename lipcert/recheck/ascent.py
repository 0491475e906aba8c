"""Slopes and curvatures of rows by gradient ascent; what is proved holds at any of them."""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.recheck.ball_box import Choice, Clamp, Relaxed
from lipcert.recheck.bends import Choices
from lipcert.recheck.substitution import Known, substituted

LEARNING_RATE = 0.1
"""Of Adam on slopes; it falls linearly to a tenth, and is a third where an ascent goes on."""

RANGE = (-2.0, 2.0)
"""Slopes are kept here: with a ball the best ones may lie outside [0, 1]."""

LEAST_ROOM = 1e-3
"""Room that ascents start from where clamps chose less."""


def ascended(
    known: Known, value: int, rows: Tensor, steps: int, goal: Tensor, start: Choices | None = None
) -> tuple[Tensor, Choices]:
    """Return the best bounds met on an ascent, (R,), -infinity for what is no number, and the choices at its end.

    Args:
        known: what is known over the ball.
        value: the number of the value that rows are of.
        rows: their coefficients, (R, *shape of the value).
        steps: of the ascent.
        goal: (R,), what is enough.
        start: choices to go on from; those of convex hulls where None.
    """
    relaxed: dict[Clamp, Relaxed] = {}
    with torch.no_grad():
        best, _ = substituted(known, value, rows, start or {}, relaxed)
    choices = start or {
        clamp: Choice(clamp.hull.repeat(len(rows), 1, 1), found.room.clamp(min=LEAST_ROOM).log())
        for clamp, found in relaxed.items()
        if len(clamp.index)
    }
    if steps == 0 or not choices or bool((best > goal).all()):
        return best, choices
    choices = {
        clamp: Choice(*(each.detach().clone().requires_grad_() for each in (choice.slopes, choice.logarithm)))
        for clamp, choice in choices.items()
    }
    free = [each for choice in choices.values() for each in (choice.slopes, choice.logarithm)]
    optimizer = torch.optim.Adam(free, LEARNING_RATE / 3 if start else LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, steps)
    for _ in range(steps):
        with torch.enable_grad():
            found, last = substituted(known, value, rows, choices, relaxed)
        best = torch.maximum(best, found)
        if not last.requires_grad or bool((best > goal).all()):
            break
        optimizer.zero_grad()
        (-last.sum()).backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for choice in choices.values():
                choice.slopes.clamp_(*RANGE)
    return best, choices
