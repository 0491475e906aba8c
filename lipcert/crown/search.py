"""Bounds of rows at the image, with more and more work on those that stay short of what is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.crown.ball import Ball
from lipcert.crown.counterexamples import refuted
from lipcert.crown.intermediate import refined
from lipcert.crown.slopes import ascended
from lipcert.crown.splits import least_of_parts
from lipcert.crown.state import State
from lipcert.crown.substitution import Rows, rows_at_a_time, substitute
from lipcert.graph import Graph


@dataclass(frozen=True)
class Effort:
    """How much is tried.

    Attributes:
        steps: of the optimisation of slopes, at most; 0 for the closest lines alone.
        splits: rounds of branch and bound after it, at most.
        refined: boxes of layers are made smaller in which at most so many neurons of an image bend, on average.
        classes: images for which more classes are open are left as they are; None for no limit.
    """

    steps: int = 0
    splits: int = 0
    refined: int = 0
    classes: int | None = None


LEAST = Effort()
"""The closest lines."""


def proved(graph: Graph, rows: Rows, state: State, ball: Ball, effort: Effort, required: Tensor) -> Rows:
    """Return rows at the image, with more work on those that stay short, and none where a counterexample is found.

    Args:
        graph, rows, state, ball: as for `bounded`; boxes of the state are made smaller where this is needed.
        effort: what is tried.
        required: (R,), not negative, what bounds have to exceed.
    """
    found = bounded(graph, rows, state, ball)
    if not (effort.steps or effort.splits or effort.refined):
        return found
    short = (~(ball.certain(found) > required)).nonzero()[:, 0]
    for chunk in short.split(rows_at_a_time(graph)):
        lost = rows.image[chunk[refuted(graph, rows.of_rows(chunk), found.of_rows(chunk), ball)]]
        short = short[~torch.isin(rows.image[short], lost)]
    if not len(short):
        return found
    images, image = rows.image[short].unique(return_inverse=True)
    near = ball.of_images(images)
    smaller = refined(graph, state.of_images(images), near, effort.refined)
    better = bounded(graph, rows.of_rows(short)._replace(image=image), smaller, near, effort, required[short])
    before, better = found.of_rows(short), better._replace(image=rows.image[short])
    better = better.where(ball.certain(better) > ball.certain(before), before)
    return found.put(short, better)


def bounded(
    graph: Graph, rows: Rows, state: State, ball: Ball, effort: Effort = LEAST, required: Tensor | None = None
) -> Rows:
    """Return rows at the image: by the closest lines, by free slopes where these are better, and by parts.

    Args:
        graph: whose activations are split into steps, see `split_activations`.
        rows: at the logits.
        state: boxes, balls and sizes.
        ball: the images.
        effort: what is tried.
        required: (R,), rows above it are not worked on any more; None to maximise all.
    """
    chunks = torch.arange(len(rows.image), device=rows.image.device).split(rows_at_a_time(graph))
    found = Rows.joined([substitute(graph, rows.of_rows(chunk), state) for chunk in chunks])
    if effort.steps == 0 or not len(rows.image):
        return found
    goal = torch.full_like(rows.constant, torch.inf) if required is None else required
    short = (~(ball.certain(found) > goal)).nonzero()[:, 0]
    if not len(short):
        return found
    better = ascended(graph, rows.of_rows(short), found.of_rows(short), state, ball, effort.steps, goal[short])
    found = found.put(short, better)
    short = short[~(ball.certain(better) > goal[short])]
    if not effort.splits or not state.balls:
        return found
    for image in rows.image[short].unique():
        chosen = short[rows.image[short] == image]
        least = least_of_parts(graph, rows.of_rows(chosen), state, ball, effort.splits, goal[chosen])
        found = found._replace(stops=found.stops.index_put((chosen,), torch.maximum(found.stops[chosen], least)))
    return found
