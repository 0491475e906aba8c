"""Branch and bound: where one bound of a row over a ball does not suffice, one for each side of a neuron's kink.

Images for which a neuron is below its kink and those for which it is above are parts of the ball that together are all
of it. Balls, links and what varies stay those of the whole ball; only boxes become smaller.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lipcert.crown.ball import Ball
from lipcert.crown.intermediate import bends
from lipcert.crown.slopes import LEARNING_RATE, optimised
from lipcert.crown.state import State, bending
from lipcert.crown.substitution import LARGEST_CHUNK, Found, Rows, rows_at_a_time, substitute
from lipcert.graph import Activation, Graph

CANDIDATES = 6
"""Kinks tried at each split."""

WHOLE, TRIED, CHOSEN = (100, LEARNING_RATE), (10, 0.02), (40, 0.05)
"""Steps of the optimisation and learning rates: of whole balls, of both sides of each kink tried, of the best ones."""

MOST_OPEN = 8
"""Parts of an image's rows that may be open at a time; with more they stay open."""

PACE = 2
"""Rows are left that would not get there at the pace of so many rounds."""


@dataclass(frozen=True)
class Parts:
    """Parts of balls, each with a box of its own: `state` and `ball` have an image for each part.

    `rows`: (P, ...), the one at `p` is about image `p`. `owner`: (P,), the row of the whole ball. Slopes and
    multipliers of the state are what optimisation starts from.
    """

    rows: Rows
    owner: Tensor
    state: State
    ball: Ball

    @classmethod
    def whole(cls, graph: Graph, rows: Rows, state: State, ball: Ball) -> Parts:
        """Return a part for each row."""
        state = replace(state, varying={node.index: state.varies(node) for node in bending(graph)})
        numbers = torch.arange(len(rows.image), device=rows.image.device)
        return cls(rows._replace(image=numbers), numbers, state.of_images(rows.image), ball.of_images(rows.image))

    def of(self, index: Tensor) -> Parts:
        """Return parts `index`, (N,), which may be there several times."""
        slopes, multipliers = (
            {key: each[index] for key, each in values.items()} for values in (self.state.slopes, self.state.multipliers)
        )
        state = replace(self.state.of_images(index), slopes=slopes, multipliers=multipliers)
        rows = self.rows.of_rows(index)._replace(image=torch.arange(len(index), device=index.device))
        return Parts(rows, self.owner[index], state, self.ball.of_images(index))


def least_of_parts(graph: Graph, rows: Rows, state: State, ball: Ball, rounds: int, goal: Tensor) -> Tensor:
    """Return lower bounds of the rows of one image, (R,), the least of all their parts; -infinity where some stay open.

    Args:
        graph: whose activations are split into steps, see `split_activations`.
        rows: at the output.
        state: of all images.
        ball: all images.
        rounds: of splits at most.
        goal: (R,), what bounds have to exceed, all of them.
    """
    least = torch.full_like(goal, torch.inf)

    def still_open(parts: Parts, value: Tensor) -> tuple[Parts, Tensor]:
        done, gap = value > goal[parts.owner], value - goal[parts.owner]
        least.scatter_reduce_(0, parts.owner[done], value[done], "amin")
        gaps = torch.zeros_like(goal).scatter_reduce_(0, parts.owner[~done], gap[~done], "amin")
        return parts.of((~done).nonzero()[:, 0]), gaps

    parts, gap = still_open(*_bounded(graph, Parts.whole(graph, rows, state, ball), goal, *WHOLE))
    gaps = [gap]
    for number in range(rounds):
        if not len(parts.owner) or len(parts.owner) > MOST_OPEN:
            break
        if number >= PACE:
            reached = gaps[-1] + (gaps[-1] - gaps[-1 - PACE]) / PACE * (rounds - number)
            if not bool((reached >= 0).all()):  # NaN is not
                break
        parts, gap = still_open(*_halves(graph, parts, goal))
        if len(parts.owner):
            parts, gap = still_open(*_bounded(graph, parts, goal, *CHOSEN))
        gaps.append(gap)
    return torch.full_like(least, -torch.inf) if len(parts.owner) else least


def _bounded(graph: Graph, parts: Parts, goal: Tensor, steps: int, rate: float) -> tuple[Parts, Tensor]:
    """Return the parts with better slopes and multipliers, and their bounds, (P,)."""
    free = sum(lower[0].numel() for lower, _ in parts.state.boxes.values())
    most = max(1, min(rows_at_a_time(graph), LARGEST_CHUNK // max(1, free)))
    values, chosen = list[Tensor](), []
    for chunk in torch.arange(len(parts.owner), device=goal.device).split(most):
        part = parts.of(chunk)
        better = optimised(graph, part.rows, part.state, part.ball, steps, goal[part.owner], rate)
        state = replace(part.state, slopes=better.slopes, multipliers=better.multipliers)
        values.append(part.ball.certain(substitute(graph, part.rows, state)))
        chosen.append(better)
    slopes, multipliers = (
        {key: torch.cat([each[key] for each in free]) for key in free[0]} for free in zip(*chosen, strict=True)
    )
    return replace(parts, state=replace(parts.state, slopes=slopes, multipliers=multipliers)), torch.cat(values)


def _halves(graph: Graph, parts: Parts, goal: Tensor) -> tuple[Parts, Tensor]:
    """Return both sides of every part, at the kink that helps most of those tried, and their bounds, (2 P,)."""
    sides, value = _bounded(graph, _sides(graph, parts), goal, *TRIED)
    short = (value - goal[sides.owner]).clamp_max(0).view(len(parts.owner), -1, 2)
    best = (short.amin(dim=2) + 0.1 * short.amax(dim=2)).argmax(dim=1)
    below = 2 * (torch.arange(len(best), device=best.device) * short.shape[1] + best)
    both = torch.stack((below, below + 1), dim=1).flatten()
    return sides.of(both), value[both]


def _sides(graph: Graph, parts: Parts) -> Parts:
    """Return both sides of every part at each of the kinks that lines hide most of, (P * kinks * 2)."""
    found: dict[int, Found] = {}
    substitute(graph, parts.rows, parts.state, found=found)
    hidden = dict[Activation, Tensor]()
    for node in graph.activations:
        each = found.get(node.index)
        if each is not None and each.hidden is not None:
            hidden[node] = (each.hidden * bends(parts.state, node).flatten(1).unsqueeze(1)).flatten(1)
    gains = torch.cat(list(hidden.values()), dim=1)
    places = gains.topk(min(CANDIDATES, gains.shape[1]), dim=1).indices
    origin = torch.arange(len(places), device=places.device).repeat_interleave(places.shape[1])
    places, sides = places.flatten(), parts.of(origin.repeat_interleave(2))
    state = sides.state
    for node, gain in hidden.items():
        here = ((places >= 0) & (places < gain.shape[1])).nonzero()[:, 0]
        kinks = torch.stack(parts.state.interval(node).points[2:], dim=1).flatten(1)
        at, coefficients = kinks[origin[here], places[here]], found[node.index].coefficients.flatten(1)
        neuron = places[here] % coefficients.shape[1]
        state = _cut(state, node, 2 * here, neuron, at, coefficients[origin[here], neuron])
        places = places - gain.shape[1]
    return replace(sides, state=state)


def _cut(state: State, node: Activation, below: Tensor, neuron: Tensor, at: Tensor, coefficients: Tensor) -> State:
    """Return the state with parts `below` a neuron's value `at`, and the next ones above; (N,) all.

    Where the neuron no longer bends, rows pass it with their `coefficients`, or not at all.
    """
    above = below + 1
    lower, upper = (end.clone(memory_format=torch.contiguous_format) for end in state.boxes[node.index])
    upper.view(len(upper), -1)[below, neuron] = at
    lower.view(len(lower), -1)[above, neuron] = at
    state = replace(state, boxes={**state.boxes, node.index: (lower, upper)})
    interval, slopes = state.interval(node), state.slopes[node.index].clone(memory_format=torch.contiguous_format)
    bent, varies, flat = (each.view(len(slopes), -1) for each in (interval.bends, interval.varies, slopes))
    for part in (below, above):
        straight = torch.where(varies[part, neuron], coefficients, 0)
        flat[part, neuron] = torch.where(bent[part, neuron], flat[part, neuron], straight)
    return replace(state, slopes={**state.slopes, node.index: slopes})
